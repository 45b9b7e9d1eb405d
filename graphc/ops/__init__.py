"""The library: one index equation is one op; everything else is derived from it."""
