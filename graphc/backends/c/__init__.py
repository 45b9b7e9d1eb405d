"""The C backend: mapping, printer, build, run."""
