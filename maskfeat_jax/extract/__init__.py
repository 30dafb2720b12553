"""Computes features of images and videos: `python -m maskfeat_jax.extract`."""
