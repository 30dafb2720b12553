"""Datasets: which examples there are, and how one is read."""
