from __future__ import annotations

import jax
import numpy as np
import pytest

from maskfeat_jax.models.layers import unstack_blocks
from maskfeat_jax.transfer import TransferError, transfer


def params(seed, classes=3, width=4, mask_token=False):
    rng = np.random.default_rng(seed)

    def array(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    encoder = {
        "pos_embed": array(1, 5, width),
        "blocks": {str(i): {"fc": {"kernel": array(width, width)}} for i in range(12)},
    }
    if mask_token:
        encoder["mask_token"] = array(1, 1, width)
    return {
        "encoder": encoder,
        "norm": {"scale": array(width)},
        "projection": array(width, classes),
    }


def stacked(params):
    kernels = [params["encoder"]["blocks"][str(i)]["fc"]["kernel"] for i in range(12)]
    blocks = {"0-1": {"fc": {"kernel": np.stack(kernels[:2])}}, "2": {"fc": {"kernel": kernels[2]}}}
    blocks["3-11"] = {"fc": {"kernel": np.stack(kernels[3:])}}
    return {**params, "encoder": {**params["encoder"], "blocks": blocks}}


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("source_is_stacked", [False, True])
@pytest.mark.parametrize("fresh_is_stacked", [False, True])
def test_only_the_named_parts_are_replaced(source_is_stacked, fresh_is_stacked):
    fresh, source = params(0), params(1, classes=7, mask_token=True)
    expected = {**fresh, "encoder": {k: source["encoder"][k] for k in fresh["encoder"]}}
    result = transfer(
        stacked(fresh) if fresh_is_stacked else fresh,
        stacked(source) if source_is_stacked else source,
    )
    assert_equal(unstack_blocks(result), expected)
    assert_equal(result, stacked(expected) if fresh_is_stacked else expected)


def test_everything_can_be_replaced():
    assert_equal(transfer(params(0), params(1), parts=("encoder", "norm", "projection")), params(1))


def test_tables_of_relative_positions_are_interpolated():
    """As PySlowFast does for 27 and 13 rows: source coordinates, two neighbours, no smoothing."""
    rows = np.arange(27, dtype=np.float32)

    def tables(*columns):
        return {"encoder": {"blocks": {"15": {"attn": {"rel_pos_h": np.stack(columns, 1)}}}}}

    fresh = tables(np.zeros(13, np.float32), np.zeros(13, np.float32))
    result = transfer(fresh, tables(rows, rows**2))["encoder"]["blocks"]["15"]["attn"]["rel_pos_h"]
    source = (np.arange(13) + 0.5) * 27 / 13 - 0.5
    np.testing.assert_allclose(
        source[[0, 1, 6, 12]], [0.538462, 2.615385, 13, 25.461538], atol=1e-6
    )
    np.testing.assert_allclose(result[:, 0], source, rtol=1e-6)
    below, fraction = np.floor(source), source % 1
    squares = (1 - fraction) * below**2 + fraction * (below + 1) ** 2
    np.testing.assert_allclose(result[:, 1], squares, rtol=1e-5)
    with pytest.raises(TransferError, match=r"rel_pos_h: \(27, 1\), expected \(13, 2\)"):
        transfer(fresh, tables(rows))


def test_what_does_not_fit_is_listed():
    source = params(1, width=6)
    del source["encoder"]["blocks"]["11"]
    with pytest.raises(TransferError, match="13 parameters do not fit") as error:
        transfer(params(0), source)
    assert "encoder/blocks/0/fc/kernel: (6, 6), expected (4, 4)" in str(error.value)
    with pytest.raises(TransferError, match=r"projection: \(4, 7\), expected \(4, 3\)"):
        transfer(params(0), params(1, classes=7), parts=("projection",))


def encoder(frames, grid, kind, first=1):
    """Parameters whose numbers are told apart by hand: a patch kernel, and tables of positions."""
    kernel = np.arange(1.0, frames + 1, dtype=np.float32).reshape(-1, 1, 1, 1, 1) * np.ones(
        (1, 2, 2, 3, 4), np.float32
    )
    tree = {"patch_embed": {"kernel": kernel}}
    of_token = np.arange(np.prod(grid), dtype=np.float32)[None, :, None] + np.zeros(4, np.float32)
    of_class = np.full((1, first, 4), -1, np.float32)
    if kind == "joint":
        return {"encoder": tree | {"pos_embed": np.concatenate([of_class, of_token], 1)}}
    tree["pos_embed_spatial"] = 10 + of_token[:, : grid[1] * grid[2]]
    tree["pos_embed_temporal"] = 100 * (1 + of_token[:, : grid[0]])
    return {"encoder": tree | ({"pos_embed_class": of_class} if first else {})}


IMAGE_GRID, VIDEO_GRID = (1, 1, 2), (3, 1, 2)
JOINT, SEPARATE = [-1, 0, 1], [-1, 10, 11]


@pytest.mark.parametrize(("kind", "rows"), [("joint", JOINT), ("separate", SEPARATE)])
def test_a_video_encoder_becomes_one_of_images(kind, rows):
    """Kernels are summed over time; of positions the first frame, or those of space, are left."""
    grids = VIDEO_GRID, IMAGE_GRID
    source = encoder(2, VIDEO_GRID, kind)
    result = transfer(encoder(1, IMAGE_GRID, "joint"), source, grids=grids)["encoder"]
    assert set(result["patch_embed"]["kernel"].ravel()) == {3}
    assert result["pos_embed"][0, :, 0].tolist() == rows
    separate = transfer(encoder(1, IMAGE_GRID, "separate"), source, grids=grids)["encoder"]
    assert separate["pos_embed_spatial"][0, :, 3].tolist() == rows[1:]
    assert not separate["pos_embed_temporal"].any()


@pytest.mark.parametrize(("kind", "rows"), [("joint", JOINT), ("separate", SEPARATE)])
@pytest.mark.parametrize("first", [1, 0])
def test_an_image_encoder_becomes_one_of_videos(kind, rows, first):
    """Kernels are divided by the frames and repeated; positions of time are zero."""
    grids, source = (IMAGE_GRID, VIDEO_GRID), encoder(1, IMAGE_GRID, kind, first)
    joint = transfer(encoder(4, VIDEO_GRID, "joint", first), source, grids=grids)["encoder"]
    assert joint["patch_embed"]["kernel"].shape == (4, 2, 2, 3, 4)
    assert set(joint["patch_embed"]["kernel"].ravel()) == {0.25}
    assert joint["pos_embed"][0, :, 0].tolist() == rows[:1] * first + rows[1:] * 3
    fresh = encoder(2, VIDEO_GRID, "separate", first)
    separate = transfer(fresh, source, grids=grids)["encoder"]
    assert separate["pos_embed_spatial"][0, :, 0].tolist() == rows[1:]
    assert separate["pos_embed_temporal"].shape == (1, 3, 4)
    assert not separate["pos_embed_temporal"].any()
    assert ("pos_embed_class" in separate) == bool(first)


def test_images_are_not_taken_for_videos_unasked():
    source, fresh = encoder(2, VIDEO_GRID, "joint"), encoder(1, VIDEO_GRID, "joint")
    with pytest.raises(TransferError, match=r"\(2, 2, 2, 3, 4\), .*model\.init_resize=True"):
        transfer(fresh, source)
    with pytest.raises(TransferError, match=r"\(2, 2, 2, 3, 4\), expected \(1, 2, 2, 3, 4\)"):
        transfer(fresh, source, grids=(VIDEO_GRID, VIDEO_GRID))  # a token for each frame of a video
