"""Schedule -> Schedule: contractions computed and cut as is fastest on this machine."""
