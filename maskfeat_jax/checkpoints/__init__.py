"""Saved states of a run: written in the background, checked before they are read."""
