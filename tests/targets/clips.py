from __future__ import annotations

import numpy as np


def clips(t=4, h=32, w=48, seed=0):
    return np.random.default_rng(seed).standard_normal((2, t, h, w, 3)).astype(np.float32)
