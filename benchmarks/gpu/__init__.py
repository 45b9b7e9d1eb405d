"""graphc's CUDA against PyTorch's on the same card in the same run."""
