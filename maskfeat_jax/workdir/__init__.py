"""The work directory of a run and the reports in it."""
