"""Features of images and videos: `python -m maskfeat_jax.extract`."""
