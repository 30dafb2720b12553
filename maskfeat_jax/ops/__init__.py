"""Pure functions on arrays."""

from maskfeat_jax.ops.hog import hog
from maskfeat_jax.ops.patches import patchify, token_grid

__all__ = ["hog", "patchify", "token_grid"]
