"""Benchmarks against the PyTorch originals; see README.md."""
