"""6-8 Routines -> Source -> Library -> Program, one folder an output language."""
