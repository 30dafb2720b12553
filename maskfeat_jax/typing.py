"""The array type of annotations: JAX arrays, and numpy arrays, which JAX takes as well."""

from __future__ import annotations

import jax
import numpy as np

Array = jax.Array | np.ndarray
