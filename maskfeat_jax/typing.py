"""Types of annotations."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

Array = jax.Array | np.ndarray  # JAX takes both
PyTree = Any  # nested containers of arrays
