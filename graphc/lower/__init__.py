"""5 Schedule -> Routines: typed loops; the last room that sees sympy."""
