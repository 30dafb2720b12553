from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.augment import Normalise
from maskfeat_jax.models import create_encoder
from maskfeat_jax.models.layers import Block
from maskfeat_jax.models.pooling_attention import PoolingBlock
from maskfeat_jax.ops.linear import layer_norm
from maskfeat_jax.targets import Features, Inputs
from maskfeat_jax.targets.features import normalised, resampled
from tests.targets.clips import clips

VIT = {"encoder": "vit_b16", "width": 32, "depth": 3, "heads": 2}
MULTISCALE = {"encoder": "mvit_v2_s", "width": 8, "depth": 4, "stages": (1, 3)}
MULTISCALE["tubelet"] = (2, 16, 16)
NORMALISE = Normalise((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
IMAGE, VIDEO = (1, 16, 16), (2, 16, 16)


def features(tubelet=IMAGE, model=VIT, **fields):
    fields = {"clip": (1, 32, 48), "mean": NORMALISE.mean, "std": NORMALISE.std, **fields}
    return Features(tubelet, model=model, dtype="float32", **fields)


def weights(target, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype), target.teacher
    )


def run(target, x, teacher=None, normalise=NORMALISE):
    given = weights(target) if teacher is None else teacher
    return np.asarray(jax.jit(target)(Inputs(jnp.asarray(x), normalise, given)))


@pytest.mark.parametrize("block", [-1, 1])
@pytest.mark.parametrize("norm", [True, False])
def test_image_teacher_by_hand(block, norm):
    """Tokens after a block of the whole encoder, of the first frame of each tubelet alone."""
    target = features(VIDEO, block=block, norm=norm)
    teacher = weights(features(VIDEO))
    given = {name: teacher[name] for name in ("encoder", "norm") if norm or name == "encoder"}
    if block == 1:
        blocks = {name: teacher["encoder"]["blocks"][name] for name in ("0", "1")}
        given["encoder"] = {**given["encoder"], "blocks": blocks}
    x = clips()
    found = run(target, x, given)
    assert found.shape == (2, 2, 2, 3, 32)
    for token, frame in enumerate((0, 2)):
        tokens = tokens_after(VIT, teacher, x[:, frame : frame + 1], block)
        tokens = tokens[:, 1:].reshape(2, 2, 3, 32)
        if norm:
            tokens = layer_norm(tokens, teacher["norm"]["scale"], teacher["norm"]["bias"])
        expected = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
        np.testing.assert_allclose(found[:, token], expected, atol=1e-5)


def tokens_after(model, teacher, x, block):
    """Tokens after a block of the whole encoder, which flax notes down."""
    encoder = create_encoder(model["encoder"], **{k: v for k, v in model.items() if k != "encoder"})

    def noted(module, method):
        return isinstance(module, Block | PoolingBlock)

    @jax.jit
    def apply(params, x):
        _, outputs = encoder.apply(
            {"params": params}, x, capture_intermediates=noted, mutable=["intermediates"]
        )
        ((tokens, _),) = outputs["intermediates"]["blocks"][str(block % encoder.depth)]["__call__"]
        return tokens

    return apply(teacher["encoder"], jnp.asarray(x))


def test_video_teacher_by_hand():
    """It sees the clip; a block of an inner stage has more tokens, of which means are taken."""
    target = features(VIDEO, MULTISCALE, clip=(4, 32, 32), block=1, norm=False, normalise="none")
    teacher = weights(features(VIDEO, MULTISCALE, clip=(4, 32, 32)))
    blocks = {name: teacher["encoder"]["blocks"][name] for name in ("0", "1")}
    x = clips(h=32)[:, :, :, :32]
    tokens = tokens_after(MULTISCALE, teacher, x, 1)[:, 1:]
    expected = tokens.reshape(2, 2, 2, 2, 2, 2, 16).mean((3, 5))
    found = run(target, x, {"encoder": {**teacher["encoder"], "blocks": blocks}})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_pixels_are_normalised_and_resized_as_the_teacher_was_trained():
    video = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 48, 3)).astype(np.uint8)
    own = Normalise((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    target = features(mean=own.mean, std=own.std)
    expected = run(target, own(video), normalise=own)
    np.testing.assert_allclose(run(target, NORMALISE(video)), expected, atol=1e-5)
    larger = features(mean=own.mean, std=own.std, clip=(1, 64, 96))
    assert larger.teacher["encoder"]["pos_embed"].shape == (1, 25, 32)
    resized = jax.image.resize(own(video), (2, 1, 64, 96, 3), "cubic")
    same = features((1, 32, 32), mean=own.mean, std=own.std, clip=(1, 64, 96))
    expected = run(same, resized, weights(larger), own)
    np.testing.assert_allclose(run(larger, NORMALISE(video), weights(larger)), expected, atol=1e-5)


def test_tokens_on_another_grid():
    row = jnp.arange(4.0).reshape(1, 1, 1, 4, 1)
    assert resampled(row, (1, 1, 2)).ravel().tolist() == [0.5, 2.5]
    assert resampled(row[..., :2, :], (2, 1, 4))[0, 1].ravel().tolist() == [0, 0.25, 0.75, 1]
    assert resampled(row, (1, 1, 3)).shape == (1, 1, 1, 3, 1)


def test_normalisation_of_tokens():
    token = jnp.array([2.0, 0, 0])
    expected = [1.4142056, -0.7071027, -0.7071027]
    np.testing.assert_allclose(normalised(token, "layer_norm"), expected, rtol=1e-6)
    assert normalised(token, "l2").tolist() == [1, 0, 0]
    assert normalised(token, "none").tolist() == [2, 0, 0]


def test_the_teacher_is_stored_in_the_dtype_of_its_computation_but_for_its_norms():
    """Which changes no result."""
    target = Features(IMAGE, model={**VIT, "scan": True}, clip=(1, 32, 48))
    kinds = {
        path[-1].key: leaf.dtype
        for path, leaf in jax.tree_util.tree_leaves_with_path(target.teacher)
    }
    assert kinds["kernel"] == kinds["pos_embed"] == jnp.bfloat16
    assert kinds["scale"] == kinds["bias"] == jnp.float32
    stored = weights(target)
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float32), stored)
    x = clips(t=1)
    np.testing.assert_array_equal(run(target, x, stored), run(target, x, wide))


def test_pictures_show_predictions_in_the_colours_of_the_true_features():
    target, x = features(), clips(t=1)
    inputs = Inputs(jnp.asarray(x), NORMALISE, weights(target))
    true = jax.jit(target)(inputs)

    @jax.jit
    def restore(features):
        return target.restore(features, inputs, predicted=True)

    shown = restore(true)
    np.testing.assert_allclose(shown.mean((1, 2, 3)), 0.5, atol=1e-4)
    # The cosine does not train the length of a prediction.
    np.testing.assert_allclose(restore(3 * true), shown, atol=1e-4)
    np.testing.assert_allclose(restore(jnp.roll(true, 1, 3)), np.roll(shown, 1, 3), atol=1e-4)
    picture = target.draw(np.asarray(shown[0, 0]), NORMALISE.mean, NORMALISE.std)
    assert picture.shape == (32, 48, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 6  # one colour per token


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": {}}, "file: missing; set it to the teacher"),
        ({"model": {"encoder": "vit_b17"}}, "no encoder: 'vit_b17'"),
        ({"model": {**VIT, "head": 2}}, "no encoder: .*'head'"),
        ({"model": {**VIT, "heads": 5}}, "no encoder: width 32 is not a whole number of 5 heads"),
        ({"block": 3}, "block=3: the teacher has 3 blocks"),
        ({"clip": (1, 30, 48)}, "clip"),
        ({"std": (0.0, 1.0, 1.0)}, "std=.*must be positive"),
        ({"normalise": "l1"}, "normalise='l1' is not one of l2, layer_norm, none"),
        ({"distance": "l2"}, "distance='l2' is not one of cosine, mse, smooth_l1"),
        ({"model": MULTISCALE, "clip": (4, 32, 32), "block": 1}, "last stage; set norm to False"),
        ({"model": MULTISCALE, "clip": (4, 32, 32), "block": 0}, "block 0 doubles the width"),
    ],
)
def test_refuses(fields, words):
    with pytest.raises(ValueError, match=words):
        features(VIDEO, **fields)


def test_products_of_a_published_size():
    """17.6 G multiply-adds of ViT-B/16 per image, for each frame of tokens."""
    target = Features((2, 16, 16), model={"encoder": "vit_b16"})
    assert target.teacher_products((16, 224, 224)) / 8e9 == pytest.approx(17.56, abs=0.02)
    projected = dataclasses.replace(target, projection=512)
    more = projected.teacher_products((2, 224, 224)) - target.teacher_products((2, 224, 224))
    assert more == 196 * 768 * 512


def test_a_section_of_a_json_file_is_the_same_target():
    def made(stages):
        return features(VIDEO, {**MULTISCALE, "stages": stages}, clip=(4, 32, 32))

    assert made([1, 3]) == made((1, 3))
    assert hash(made([1, 3])) == hash(made((1, 3)))


def test_a_video_teacher_needs_its_number_of_frames():
    target = features(VIDEO, MULTISCALE, clip=(8, 32, 32))
    inputs = Inputs(clips(h=32), NORMALISE, target.teacher)
    with pytest.raises(ValueError, match=r"takes clips of 8 frames, .* have 4; set target.clip"):
        target(inputs)
