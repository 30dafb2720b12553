"""Several processes as one run: how they start, compare, agree and stop."""
