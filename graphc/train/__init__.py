"""Training on top of compiled programs: data, metrics, the loop, checkpoints."""
