"""4 Graph -> Schedule: fusion, order and memory."""
