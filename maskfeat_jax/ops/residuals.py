"""What a block stores for its backward pass: what it keeps, in the dtype of the computation.

On accelerators the rest is computed again, as that takes less time than storing it: norms,
activation functions, and what only moves numbers.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from maskfeat_jax.typing import Array

NAME = "kept"
_named = jax.checkpoint_policies.save_only_these_names(NAME)


def keep(x: Array) -> Array:
    """The same array, stored for the backward pass."""
    return checkpoint_name(x, NAME)


def kept(primitive: Any, *args: Any, **params: Any) -> bool:
    """Policy of `jax.checkpoint`: stores what `keep` names, and results of cuDNN's attention."""
    by_cudnn = primitive.name.startswith("dot_product_attention_fwd")
    return by_cudnn or _named(primitive, *args, **params)
