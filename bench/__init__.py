"""Our speed beside that of the PyTorch originals; see README.md."""
