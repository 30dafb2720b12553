"""Campaigns of faults; docs/reliability.md shows their results."""
