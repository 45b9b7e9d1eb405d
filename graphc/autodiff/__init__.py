"""2 Graph -> Graph: the derivative of one equation, and the reverse walk."""
