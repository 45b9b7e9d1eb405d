"""CUDA: the driver that programs talk to, and an emulator that runs kernels without a GPU."""
