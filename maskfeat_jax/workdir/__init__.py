"""The directory of a run: whose it is, and what the run reports there."""
