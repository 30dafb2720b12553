"""TensorFlow that leaves accelerators alone; imported where it is needed, as that takes seconds.

TensorFlow would reserve the memory of every accelerator it sees; here it only decodes and batches.
"""

from __future__ import annotations

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

__all__ = ["tf"]
