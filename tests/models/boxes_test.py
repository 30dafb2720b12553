from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.models import create_model
from maskfeat_jax.models.boxes import BoxClassifier
from maskfeat_jax.ops.roi_align import roi_align

TINY = {
    "vit_ti16": dict(width=32, depth=1, heads=2, tubelet=(2, 16, 16)),
    "mvit_v2_s": dict(width=16, depth=2, stages=(1,), tubelet=(2, 8, 8)),
}


class Given(nn.Module):
    """Tokens that are given instead of clips, in the last channels of the first pixel."""

    tokens: tuple
    tubelet = (2, 16, 32)
    epsilon, class_tokens, frozen = 1e-6, 1, ()

    def grid(self, clip):
        return tuple(size // side for size, side in zip(clip, self.tubelet, strict=True))

    def fitted(self, clips):
        return clips

    def __call__(self, clips, *, train=False):
        return jnp.asarray(self.tokens)[None]


def test_boxes_are_pooled_as_in_slowfast():
    """Norm of every token, no class token, mean over time, RoIAlign, largest bin."""
    grid, width = (2, 3, 4), 5
    tokens = np.random.default_rng(0).normal(size=(1 + 24, width)).astype(np.float32)
    model = BoxClassifier(Given(tuple(map(tuple, tokens.tolist()))), num_classes=3, bins=2)
    clips = np.zeros((1, 4, 48, 128, 3), np.float32)
    boxes = np.array([[[8.0, 4, 90, 40], [0, 0, 127, 47]]], np.float32)
    params = model.init(jax.random.key(0), clips, boxes)["params"]
    kernel = params["projection"]["kernel"]
    params = {**params, "norm": {"scale": np.arange(1.0, 6), "bias": np.arange(5.0)}}
    normed = (tokens - tokens.mean(1, keepdims=True)) / np.sqrt(tokens.var(1, keepdims=True) + 1e-6)
    normed = normed * np.arange(1.0, 6) + np.arange(5.0)
    cells = normed[1:].reshape(*grid, width).mean(0)[None].astype(np.float32)
    in_cells = jnp.asarray(boxes / np.array([32, 16, 32, 16], np.float32))
    expected = roi_align(jnp.asarray(cells), in_cells, (2, 2)).max((2, 3)) @ kernel
    found = model.apply({"params": params}, clips, boxes)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encoder", TINY)
def test_a_box_depends_on_its_own_pixels_only_by_the_encoder(encoder):
    """Boxes of one clip do not see each other, and all of a frame is on the map."""
    model = create_model("boxes", encoder=encoder, head={"num_classes": 4}, **TINY[encoder])
    clips = np.random.default_rng(0).normal(size=(2, 4, 64, 64, 3)).astype(np.float32)
    boxes = np.array([[0, 0, 20, 20], [40, 40, 63, 63], [10, 5, 50, 60]], np.float32)
    both = np.stack([boxes, boxes[::-1]])
    params = jax.jit(model.init)(jax.random.key(0), clips, both)["params"]
    apply = jax.jit(model.apply)
    found = apply({"params": params}, clips, both)
    assert found.shape == (2, 3, 4)
    assert found.dtype == np.float32
    alone = apply({"params": params}, clips[:1], both[:1, 1:2])
    np.testing.assert_allclose(found[0, 1], alone[0, 0], rtol=1e-4, atol=1e-6)
    assert len(np.unique(np.round(found[0], 6), axis=0)) == 3
    assert not np.allclose(found[0, 1], params["projection"]["bias"])  # not off the map


@pytest.mark.parametrize(
    ("encoder", "fields", "grid"),
    [
        ("vit_ti16", {}, (2, 4, 6)),  # a rest of 14 pixels fills no patch
        ("vit_ti16", {"positions": "separate"}, (2, 4, 6)),
        ("vit_ti16", {"positions": "sincos"}, (2, 4, 6)),
        ("mvit_v2_s", {}, (2, 8, 14)),  # filled up to 112 columns
    ],
)
def test_frames_of_any_size(encoder, fields, grid):
    fields = {**TINY[encoder], **fields}
    model = create_model("boxes", encoder=encoder, head={"num_classes": 4}, **fields)
    square, wide = np.zeros((1, 4, 64, 64, 3)), np.ones((1, 4, 64, 110, 3), np.float32)
    boxes = np.array([[[60, 10, 95, 60]]], np.float32)
    params = jax.jit(model.init)(jax.random.key(0), square, boxes)
    fitted = model.encoder.fitted(jnp.asarray(wide))
    assert model.encoder.grid(fitted.shape[1:4]) == grid
    found = jax.jit(model.apply)(params, wide, boxes)
    whole = jax.jit(model.apply)(params, fitted, boxes)
    np.testing.assert_array_equal(found, whole)
    assert found.shape == (1, 1, 4)
    with pytest.raises(ValueError, match=r"tubelets|patches|clip"):
        model.apply(params, wide[:, :3], boxes)


def test_wrong_fields_are_refused():
    for head, words in (
        ({"num_classes": 1}, "num_classes=1"),
        ({"num_classes": 4, "dropout": 1.0}, "dropout=1.0"),
        ({"num_classes": 4, "bins": 0}, "bins=0"),
    ):
        with pytest.raises(ValueError, match=words):
            create_model("boxes", encoder="vit_ti16", head=head)
