from __future__ import annotations

import numpy as np
import pytest

from maskfeat_jax.ops.patches import patchify, token_grid


def test_patchify_puts_frame_row_column_channel_in_order():
    clips = np.random.default_rng(0).standard_normal((2, 4, 6, 8, 3)).astype(np.float32)
    patches = np.asarray(patchify(clips, (2, 3, 4)))
    assert patches.shape == (2, 2, 2, 2, 2 * 3 * 4 * 3)
    expected = clips[1, 2:4, 3:6, 4:8].reshape(-1)
    np.testing.assert_array_equal(patches[1, 1, 1, 1], expected)


def test_token_grid_names_both_sizes():
    assert token_grid((16, 224, 192), (2, 16, 16)) == (8, 14, 12)
    with pytest.raises(
        ValueError, match="clip 1x224x220 is not a whole number of 1x16x16 tubelets"
    ):
        token_grid((1, 224, 220), (1, 16, 16))
