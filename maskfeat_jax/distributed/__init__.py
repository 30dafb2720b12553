"""Runs of several processes: start, comparison, agreement and stop."""
