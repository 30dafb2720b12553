from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import EvalView, ImageFolder, Loader, TrainView
from maskfeat_jax.augment import Augment, Normalise
from maskfeat_jax.targets import Inputs, LabelMaps, PseudoLabel
from maskfeat_jax.targets.pseudo_label import logits_of_clips
from tests.convert.models import VIT, small
from tests.input_pipeline.samples import encode, tensor_file

POSITIONS = np.arange(16, dtype=np.float32).reshape(4, 4)


def maps_of(logits, classes, boxes, flipped=None):
    """Maps of one image, cut by several boxes."""
    b = len(boxes)
    logits, classes = (
        np.broadcast_to(np.asarray(x)[None], (b, *np.shape(x))) for x in (logits, classes)
    )
    flipped = np.zeros(b, bool) if flipped is None else np.asarray(flipped)
    return LabelMaps(
        logits.astype(np.float16), classes.astype(np.int16), np.float32(boxes), flipped
    )


def test_the_middle_of_a_small_map_is_as_in_token_labeling():
    logits = [0.5 * POSITIONS, 4 - 0.25 * POSITIONS]
    classes = np.broadcast_to(np.arange(2)[:, None, None], (2, 4, 4))
    maps = maps_of(logits, classes, [(0.25, 0.25, 0.75, 0.75)])
    (cut,) = np.asarray(logits_of_clips(maps, 3, (2, 2)))
    np.testing.assert_allclose(cut[..., 0], [[2.5, 3], [4.5, 5]], atol=1e-6)
    np.testing.assert_allclose(cut[..., 1], [[2.75, 2.5], [1.75, 1.5]], atol=1e-6)
    assert not cut[..., 2].any()
    inputs = Inputs(np.zeros((1, 1, 8, 8, 3), np.float32), label_maps=maps)
    probabilities = np.asarray(PseudoLabel((1, 4, 4), classes=3)(inputs))[0, 0]
    np.testing.assert_allclose(
        probabilities[..., 0], [[0.422635, 0.603749], [0.930201, 0.964380]], atol=1e-6
    )
    np.testing.assert_allclose(
        probabilities[..., 2], [[0.034692, 0.030059], [0.010334, 0.006498]], atol=1e-6
    )


def test_each_position_has_its_own_classes_and_others_the_logit_0():
    rng = np.random.default_rng(0)
    classes = np.stack([rng.permutation(6)[:2] for _ in range(16)], 1).reshape(2, 4, 4)
    logits = rng.normal(size=(2, 4, 4)).astype(np.float16)
    dense = np.zeros((4, 4, 6))
    for k, i, j in np.ndindex(2, 4, 4):
        dense[i, j, classes[k, i, j]] = logits[k, i, j]
    whole, flipped = logits_of_clips(
        maps_of(logits, classes, [(0, 0, 1, 1)] * 2, [False, True]), 6, (4, 4)
    )
    np.testing.assert_allclose(whole, dense, atol=1e-6)
    np.testing.assert_allclose(flipped, dense[:, ::-1], atol=1e-6)


def test_a_box_is_left_top_right_bottom():
    maps = maps_of(POSITIONS[None], np.zeros((1, 4, 4)), [(0.5, 0.0, 1.0, 0.25)])
    (cut,) = np.asarray(logits_of_clips(maps, 2, (1, 2)))
    np.testing.assert_allclose(cut[..., 0], POSITIONS[:1, 2:], atol=1e-6)


@pytest.fixture
def coloured(tmp_path):
    """Pictures whose red and green are x and y, and whose maps have these as classes 0 and 1."""
    y, x = (np.indices((80, 120)) + 0.5) / np.array([80, 120])[:, None, None]
    map_y, map_x = (np.indices((8, 12)) + 0.5) / np.array([8, 12])[:, None, None]
    for split in ("train", "val"):
        for folder in ("images", "maps"):
            (tmp_path / folder / split).mkdir(parents=True)
        for number in range(6):
            pixels = (255 * np.stack([x, y, 0 * x], -1)).astype(np.uint8)
            name = f"{split}/{number}"
            (tmp_path / "images" / f"{name}.png").write_bytes(encode(pixels, "png"))
            logits_and_classes = np.stack([[map_x, map_y], [0 * map_x, 1 + 0 * map_y]])
            data = tensor_file(logits_and_classes.astype(np.float16))
            (tmp_path / "maps" / f"{name}.pt").write_bytes(data)
    return {"path": str(tmp_path / "images"), "label_maps": str(tmp_path / "maps")}


@pytest.mark.parametrize("view", [TrainView(size=32, repeats=4), EvalView(size=32, crops=3)])
def test_maps_follow_crop_and_flip(coloured, view):
    source = ImageFolder("train", **coloured, map_classes=3)
    loader = Loader(source, view, batch_size=24, seed=3)
    trains = isinstance(view, TrainView)
    batch = next(loader.train_batches() if trains else loader.eval_batches())
    normalise, augment, key = Normalise(), Augment(flip=0.5 if trains else 0.0), jax.random.key(1)
    clips = np.asarray(augment(key, normalise(batch["video"])))
    flipped = augment.flipped(key, len(clips))
    maps = LabelMaps(batch["map_logits"], batch["map_classes"], batch["box"], flipped)
    found = np.asarray(logits_of_clips(maps, 3, (4, 4)))[..., :2]
    colours = (clips * np.float32(normalise.std) + np.float32(normalise.mean))[..., :2]
    expected = colours.reshape(-1, 4, 8, 4, 8, 2).mean((2, 4))
    valid = batch["valid"]
    np.testing.assert_allclose(found[valid], expected[valid], atol=0.05)
    rises = (np.diff(expected[valid][..., 0], axis=2) > 0).all((1, 2))
    assert {False, True} == set(rises) if trains else rises.all()


def test_clips_without_maps_and_videos_are_refused():
    target = PseudoLabel((1, 4, 4), classes=3)
    clips = np.zeros((1, 1, 8, 8, 3), np.float32)
    with pytest.raises(ValueError, match="needs label maps, and these clips have none"):
        target(Inputs(clips))
    with pytest.raises(ValueError, match="label maps are of images, but the clips are videos"):
        target(Inputs(clips.repeat(2, 1)))
    with pytest.raises(ValueError, match="classes=1"):
        PseudoLabel((1, 4, 4), classes=1)


def test_a_classifier_is_applied_to_each_of_its_tokens():
    trained = small("class")
    target = PseudoLabel(
        (2, 16, 16), classes=5, model=VIT, clip=trained.clip, mean=(0.4,) * 3, dtype="float32"
    )
    assert target.map_classes == 0
    assert jax.tree.map(jnp.shape, target.teacher) == jax.tree.map(jnp.shape, trained.params)
    clips = np.random.default_rng(0).normal(size=(2, 4, 48, 48, 3)).astype(np.float32)
    found = target(Inputs(clips, Normalise(), trained.params))
    assert found.shape == (2, 2, 3, 3, 5)
    std, mean = np.float32(Normalise.std), np.float32(Normalise.mean)
    frame = (clips[1:, 2:3] * std + mean - 0.4) / std
    encoder, norm, head = (trained.params[key] for key in ("encoder", "norm", "projection"))
    tokens = trained.model.encoder.apply({"params": encoder}, frame)[0, 1:]
    tokens = jax.nn.standardize(tokens, epsilon=trained.model.encoder.epsilon)
    logits = (tokens * norm["scale"] + norm["bias"]) @ head["kernel"] + head["bias"]
    expected = jax.nn.softmax(logits).reshape(3, 3, 5)
    np.testing.assert_allclose(found[1, 1], expected, atol=2e-6)
    coarse = PseudoLabel((2, 48, 16), classes=5, model=VIT, clip=trained.clip, dtype="float32")
    assert coarse(Inputs(clips, Normalise(), trained.params)).shape == (2, 2, 1, 3, 5)


def test_pictures_show_the_most_probable_classes():
    target = PseudoLabel((1, 4, 4), classes=3)
    inputs = Inputs(np.zeros((1, 1, 8, 8, 3), np.float32))
    true = np.float32([[[[[0.1, 0.8, 0.1]] * 2, [[0.3, 0.3, 0.4]] * 2]]])
    restored = np.asarray(target.restore(true, inputs, predicted=False))
    np.testing.assert_allclose(restored[0, 0], [[[1, 0.8]] * 2, [[2, 0.4]] * 2], rtol=1e-6)
    ours = target.restore(np.log(true) + 5, inputs, predicted=True)
    np.testing.assert_allclose(ours, restored, rtol=1e-5)
    plain = target.draw(restored[0, 0], (0, 0, 0), (1, 1, 1))
    named = target.named(("ant", "bee", "cat")).draw(restored[0, 0], (0, 0, 0), (1, 1, 1))
    assert plain.shape == named.shape == (224, 224, 3)
    assert (plain != named).any()
    assert target.named(("ant", "bee")) == target
    top, bottom = plain[2, 2].astype(int), plain[-2, 2].astype(int)
    assert np.ptp(top) > np.ptp(bottom) > 0
