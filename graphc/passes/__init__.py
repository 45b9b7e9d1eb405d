"""3 Graph -> Graph: rewrites that keep the meaning of a graph."""
