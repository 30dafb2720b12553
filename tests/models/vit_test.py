from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

from maskfeat_jax.models import create_encoder, create_model
from maskfeat_jax.models.positions import POSITIONS
from tests.models.initial import initial

TINY = {"width": 24, "depth": 3, "heads": 3, "tubelet": (2, 8, 4)}


def tiny(**fields):
    return create_model("maskfeat", encoder="vit_ti16", head={"dim": 5}, **{**TINY, **fields})


def clips_and_mask(seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    clips = jax.random.normal(keys[0], (3, 4, 16, 8, 3))
    return clips, jax.random.bernoulli(keys[1], 0.5, (3, 2, 2, 2))


@pytest.mark.parametrize("positions", POSITIONS)
def test_without_class_token_the_grid_is_unchanged(positions):
    clips, mask = clips_and_mask()
    fields = {**TINY, "width": 48, "depth": 0, "positions": positions}
    usual = create_encoder("vit_ti16", **fields)
    params = initial(usual, clips, mask)
    expected = np.asarray(usual.apply({"params": params}, clips, mask))[:, 1:]
    encoder = create_encoder("vit_ti16", class_token=False, **fields)
    assert (usual.class_tokens, encoder.class_tokens) == (1, 0)
    left = {k: v for k, v in params.items() if k not in ("cls_token", "pos_embed_class")}
    if "pos_embed" in left:
        left["pos_embed"] = left["pos_embed"][:, 1:]
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), clips, mask)["params"]
    assert jax.tree.map(jnp.shape, left) == jax.tree.map(jnp.shape, shapes)
    np.testing.assert_array_equal(encoder.apply({"params": left}, clips, mask), expected)


def test_refuses():
    with pytest.raises(KeyError, match="vit_x"):
        create_encoder("vit_x")
    with pytest.raises(TypeError, match="widht"):
        create_encoder("vit_b16", widht=3)
    with pytest.raises(ValueError, match="width 20 is not a whole number of 3 heads"):
        create_encoder("vit_ti16", width=20)
    with pytest.raises(ValueError, match="drop_path=1.5"):
        tiny(drop_path=1.5)
    with pytest.raises(ValueError, match="attention='flash' is not one of auto, xla"):
        tiny(attention="flash")


@pytest.mark.parametrize("class_token", [True, False])
def test_masked_pixels_have_no_influence_and_visible_ones_have(class_token):
    clips, mask = clips_and_mask()
    model = tiny(class_token=class_token)
    params = initial(model, clips, mask)
    squares = jax.grad(lambda x: jnp.sum(model.apply({"params": params}, x, mask) ** 2))
    gradient = jax.jit(squares)(clips)
    by_token = jnp.abs(gradient).reshape(3, 2, 2, 2, 8, 2, 4, 3).max((2, 4, 6, 7))
    assert not np.asarray(by_token)[np.asarray(mask)].any()
    assert np.asarray(by_token)[~np.asarray(mask)].all()


def test_masked_tokens_keep_their_positions():
    clips, _ = clips_and_mask()
    mask = jnp.ones((3, 2, 2, 2), bool)
    model = tiny()
    params = initial(model, clips, mask)
    predicted = np.asarray(jax.jit(model.apply)({"params": params}, clips, mask)).reshape(3, 8, 5)
    np.testing.assert_allclose(predicted[0], predicted[1], atol=1e-6)  # nothing of the clip is seen
    assert np.abs(predicted[0, 0] - predicted[0, 1]).max() > 1e-3


def test_initialisation():
    model = create_model("classifier", encoder="vit_s16", head={"num_classes": 7}, depth=2)
    params = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 1, 32, 32, 3)))["params"]
    block = params["encoder"]["blocks"]["1"]
    assert abs(float(block["attn"]["qkv"]["kernel"].std()) - 0.02) < 1e-3
    assert not np.asarray(block["mlp"]["fc1"]["bias"]).any()
    assert (np.asarray(block["norm1"]["scale"]) == 1).all()
    patch = params["encoder"]["patch_embed"]
    assert patch["kernel"].shape == (1, 16, 16, 3, 384)
    assert 0.9 * 768**-0.5 < float(jnp.abs(patch["bias"]).max()) <= 768**-0.5
    assert float(params["projection"]["kernel"].std()) < 4e-5
    assert params["encoder"]["pos_embed"].shape == (1, 5, 384)
    assert "mask_token" not in params["encoder"]


def test_positions_of_other_frames_are_interpolated_as_by_torch():
    """Trilinear, without aligned corners: torch gave these weights for 2 to 3 columns."""
    encoder = create_encoder("vit_ti16", width=16, depth=1, heads=1, tubelet=(1, 8, 8))
    params = encoder.init(jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)))["params"]
    table = np.random.default_rng(0).normal(size=(1, 5, 16)).astype(np.float32)
    blank = jax.tree.map(jnp.zeros_like, params)
    shown = {**blank, "pos_embed": table}  # blocks without weights change nothing
    apply = jax.jit(encoder.apply, static_argnames="any_frame")
    tokens = apply({"params": shown}, jnp.zeros((1, 1, 16, 24, 3)), any_frame=True)
    grid = table[0, 1:].reshape(2, 2, 16)
    expected = np.stack([grid[:, 0], grid.mean(1), grid[:, 1]], 1).reshape(6, 16)
    np.testing.assert_allclose(tokens[0, 1:], expected, atol=1e-6)
    np.testing.assert_allclose(tokens[0, 0], table[0, 0], atol=1e-6)


def test_positions_of_no_square_grid_are_refused():
    encoder = create_encoder("vit_ti16", width=16, depth=1, heads=1, tubelet=(1, 8, 8))
    params = encoder.init(jax.random.key(0), jnp.zeros((1, 1, 16, 24, 3)))
    with pytest.raises(ValueError, match="7 positions are not those of 1 x 2 x 2 tokens"):
        encoder.apply(params, jnp.zeros((1, 1, 16, 16, 3)), any_frame=True)
    with pytest.raises(ScopeParamShapeError):  # only where it is asked for
        encoder.apply(params, jnp.zeros((1, 1, 16, 32, 3)))
