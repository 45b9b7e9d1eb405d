"""1 Python -> Graph: tensors, the op decorator, layers and initialisers."""
