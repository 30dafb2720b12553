"""Builds a run from a recipe, trains it, evaluates it."""
