"""The CPU suite: `run.py` starts it, `cases.py` says what is measured, `workers/` holds who."""
