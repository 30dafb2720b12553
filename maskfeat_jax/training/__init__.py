"""A run: built from a recipe, trained, evaluated."""
