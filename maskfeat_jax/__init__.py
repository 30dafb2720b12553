"""Masked feature prediction for images and video in JAX."""
