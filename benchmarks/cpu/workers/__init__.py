"""The contestants. Each runs alone in a process of its own: `python -m benchmarks.cpu.workers`."""
