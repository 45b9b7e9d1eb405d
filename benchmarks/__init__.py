"""Measurements of graphc against other systems; `cpu/run.py` is where to start."""
