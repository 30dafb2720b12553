"""Behaviour; numbers are in mae_golden_test.py."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.masking import Random
from maskfeat_jax.models import create_encoder, create_model
from maskfeat_jax.models.layers import unstack_blocks
from maskfeat_jax.models.positions import FIXED, POSITIONS, sincos_table, sinusoid_table
from maskfeat_jax.ops.visible import visible_tokens
from tests.models.initial import initial

ENCODER = {"width": 32, "depth": 2, "heads": 2, "tubelet": (2, 8, 8)}
HEAD = {"dim": 6, "visible": 10, "width": 16, "depth": 1, "heads": 2}
RNG = np.random.default_rng(0)
CLIPS = RNG.standard_normal((2, 4, 32, 32, 3)).astype(np.float32)
MASK = np.asarray(Random(1 - 10 / 32)(jax.random.key(0), 2, (2, 4, 4)))


def model_of(head=(), **fields):
    return create_model("mae", encoder="vit_ti16", head={**HEAD, **dict(head)}, **ENCODER, **fields)


def test_encoder_sees_the_visible_tokens_only():
    model = model_of()
    params = initial(model, CLIPS, MASK)

    @jax.jit
    def predict(clips):
        return model.apply({"params": params}, clips, MASK)

    hidden = np.kron(MASK, np.ones((1, 2, 8, 8)))[..., None]
    changed = np.where(hidden > 0, 7.0, CLIPS).astype(np.float32)
    np.testing.assert_array_equal(predict(CLIPS), predict(changed))
    gradient = jax.jit(jax.grad(lambda clips: jnp.sum(predict(clips) ** 2)))(CLIPS)
    # `take_visible` passes gradients to what it takes, and to nothing else.
    assert not np.any(np.where(hidden > 0, gradient, 0))
    assert np.any(np.asarray(gradient))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("first", [1, 0])
def test_visible_tokens_equal_those_of_a_full_embedding(positions, first):
    fields = {**ENCODER, "depth": 0, "positions": positions, "class_token": bool(first)}
    encoder = create_encoder("vit_ti16", **fields)
    params = {"params": initial(encoder, CLIPS, noise=0.02)}
    every = np.asarray(jax.jit(encoder.apply)(params, CLIPS))
    few = jax.jit(encoder.apply)(params, CLIPS, visible=visible_tokens(MASK, 10))
    np.testing.assert_array_equal(few[:, :first], every[:, :first])
    expected = every[:, first:][~MASK.reshape(2, -1)].reshape(2, 10, -1)
    np.testing.assert_allclose(few[:, first:], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("positions", "class_token", "encoders"),
    [
        ("joint", "encoder", True),
        ("separate", "encoder", True),
        ("sincos", "encoder", True),
        ("joint", "own", True),
        ("separate", "own", True),
        ("sincos", "none", True),
        ("joint", "own", False),
        ("separate", "none", False),
        ("sinusoid", "none", False),
    ],
)
def test_all_dialects_use_every_parameter(positions, class_token, encoders):
    head = {"positions": positions, "class_token": class_token}
    model = model_of(head, positions=positions, class_token=encoders)
    params = initial(model, CLIPS, MASK)

    def squares(params):
        out = model.apply({"params": params}, CLIPS, MASK)
        assert out.shape == (2, 2, 4, 4, 6)
        return jnp.sum(jnp.square(out))

    gradients = jax.jit(jax.grad(squares))(params)
    fixed = positions in FIXED
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = "/".join(key.key for key in path)
        assert np.any(np.asarray(leaf)) != (fixed and name.endswith("pos_embed")), name
    assert ("cls_token" in params["decoder"]) == (class_token == "own")
    assert ("cls_token" in params["encoder"]) == encoders
    for module, rows in (("decoder", class_token != "none"), ("encoder", encoders)):
        if positions == "separate":
            assert ("pos_embed_class" in params[module]) == rows
        else:
            assert params[module]["pos_embed"].shape[1] == 32 + rows
    expected = {"^encoder/pos_embed$", "^decoder/pos_embed$"} if fixed else set()
    assert set(model.frozen) == expected


@pytest.mark.parametrize("fields", [{"scan": True}, {"remat": True}])
def test_scan_and_remat_change_nothing(fields):
    model, other = model_of(), model_of(**fields)
    params = initial(other, CLIPS, MASK)

    def gradient(model, params):
        return jax.jit(
            jax.grad(lambda p: jnp.sum(jnp.square(model.apply({"params": p}, CLIPS, MASK))))
        )(params)

    found = unstack_blocks(gradient(other, params))
    expected = gradient(model, unstack_blocks(params))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_sincos_encodes_column_row_and_frame():
    table = np.asarray(sincos_table((1, 3, 4), 32))[0]
    assert not table[0].any()
    grid = table[1:].reshape(3, 4, 32)
    assert (grid[:, 2, :16] == grid[0, 2, :16]).all()  # the first half encodes the column
    assert (grid[1, :, 16:] == grid[1, 0, 16:]).all()  # the second the row
    np.testing.assert_allclose(grid[0, 3, [0, 8]], [np.sin(3), np.cos(3)], atol=1e-6)
    video = np.asarray(sincos_table((2, 3, 4), 32))[0, 1:].reshape(2, 3, 4, 32)
    assert (video[1, :, :, :8] == video[1, 0, 0, :8]).all()
    assert (video[0, ..., 8:] == video[1, ..., 8:]).all()


def test_sinusoid_counts_tokens_and_alternates():
    table = np.asarray(sinusoid_table((2, 3, 4), 10))[0]
    assert not table[0].any()
    np.testing.assert_array_equal(sinusoid_table((24, 1, 1), 10, 0)[0], table[1:])
    for n, j in ((0, 1), (5, 0), (5, 1), (17, 6), (23, 9)):
        angle = n / 10000 ** ((j - j % 2) / 10)
        expected = math.cos(angle) if j % 2 else math.sin(angle)
        np.testing.assert_allclose(table[1 + n, j], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", FIXED)
@pytest.mark.parametrize("rows", [0, 1])
def test_fixed_positions_start_as_their_table(kind, rows):
    fields = {**ENCODER, "depth": 0, "positions": kind, "class_token": bool(rows)}
    params = jax.jit(create_encoder("vit_ti16", **fields).init)(jax.random.key(0), CLIPS)["params"]
    np.testing.assert_array_equal(params["pos_embed"], FIXED[kind]((2, 4, 4), 32, rows))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": "mvit_v2_s", "head": HEAD}, "MViT cannot skip masked tokens"),
        ({"encoder": "vit_b16", "head": {**HEAD, "heads": 3}}, "width 16 is not"),
        ({"encoder": "vit_b16", "head": {**HEAD, "class_token": "both"}}, "class_token='both'"),
        ({"encoder": "vit_b16", "head": HEAD, "class_token": False}, "'encoder' needs an encoder"),
        ({"encoder": "vit_b16", "head": {**HEAD, "positions": "rope"}}, "positions='rope'"),
        ({"encoder": "vit_b16", "head": HEAD, "positions": "no"}, "positions='no'"),
        ({"encoder": "vit_b16", "head": HEAD, "kernel_init": "zero"}, "kernel_init='zero'"),
        (
            {"encoder": "vit_b16", "head": HEAD, "positions": "sincos", "width": 72, "heads": 3},
            "width 72 is not a multiple of 16",
        ),
    ],
)
def test_refuses(changes, words):
    with pytest.raises(ValueError, match=words):
        create_model("mae", **changes)
