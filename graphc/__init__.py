"""graphc: a symbolic computation-graph compiler that generates C and CUDA."""

__version__ = "0.1.0"
