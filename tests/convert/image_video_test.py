"""Models of videos as models of images, and back, see `transfer`."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from maskfeat_jax import convert
from maskfeat_jax.convert.__main__ import main as command
from maskfeat_jax.convert.importing import shapes_of
from maskfeat_jax.models import Classifier, Features, create_encoder
from maskfeat_jax.models.mvit import OverlappingPatchEmbed
from maskfeat_jax.models.positions import sinusoid_table
from maskfeat_jax.training.build import build
from maskfeat_jax.training.initial import initial_params
from maskfeat_jax.transfer import TransferError
from tests.convert.models import assert_same, small
from tests.recipes import shrunken


def outputs(trained, clips):
    return np.asarray(jax.jit(trained.model.apply)({"params": trained.params}, clips))


def pixels(*shape):
    return np.random.default_rng(1).standard_normal((2, *shape, 3)).astype(np.float32)


def classifier(encoder, clip):
    """With random parameters."""
    model, rng = Classifier(encoder, 5), np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes_of(model, clip)
    )
    return dataclasses.replace(small("mean"), model=model, params=params, clip=clip)


def test_an_image_model_is_its_video_model_on_equal_frames():
    """With one token in time, as another one has more keys than the image beside its class."""
    video = convert.resized(small("mean_video"), (2, 32, 32))
    video.params["encoder"]["pos_embed_temporal"] = np.zeros((1, 1, 32), np.float32)
    image = convert.resized(video, (1, 48, 48))
    assert (image.model.encoder.tubelet, image.model.encoder.positions) == ((1, 16, 16), "joint")
    frame = pixels(1, 48, 48)
    expected = outputs(convert.resized(video, (2, 48, 48)), np.repeat(frame, 2, 1))
    np.testing.assert_allclose(outputs(image, frame), expected, atol=1e-6)


def test_a_video_model_without_a_class_token_is_its_image_model_on_equal_frames():
    encoder = small("mean").model.encoder.clone(class_token=False)
    image = classifier(encoder, (1, 48, 48))
    video = convert.resized(image, (8, 48, 48))
    assert video.model.encoder == encoder.clone(tubelet=(2, 16, 16), positions="separate")
    frame = pixels(1, 48, 48)
    expected = outputs(image, frame)
    np.testing.assert_allclose(outputs(video, np.repeat(frame, 8, 1)), expected, atol=1e-6)
    again = convert.resized(video, image.clip)
    assert again.model == image.model
    assert_same(again.params, image.params)


def test_fixed_positions_become_those_of_the_first_frame():
    """Which for those of VideoMAE are the fixed ones of an image."""
    image = convert.resized(small("mean_sinusoid"), (1, 32, 32))
    assert (image.model.encoder.positions, image.model.encoder.class_token) == ("joint", False)
    found = image.params["encoder"]["pos_embed"]
    np.testing.assert_allclose(found, sinusoid_table((1, 2, 2), 32, 0), atol=1e-6)


def mvit(tubelet, clip):
    sizes = {"width": 8, "depth": 2, "stages": (1,), "tubelet": tubelet, "scan": False}
    return classifier(create_encoder("mvit_v2_s", **sizes), clip)


def test_an_mvit_of_images_is_that_of_videos_where_it_does_not_pad():
    """Patches of the first frames, and pooling of the first and last ones, see zeros beside."""
    video = mvit((2, 8, 8), (4, 32, 32))
    image = convert.resized(video, (1, 32, 32))
    encoder = image.model.encoder
    assert encoder.tubelet == (1, 8, 8)
    assert image.params["encoder"]["patch_embed"]["kernel"].shape == (1, 7, 7, 3, 8)
    attn, old = (x.params["encoder"]["blocks"]["0"]["attn"] for x in (image, video))
    assert attn["pool_k"]["kernel"].shape == (1, 3, 3, 1, 8)
    np.testing.assert_array_equal(attn["rel_pos_t"], old["rel_pos_t"][1:2])  # of the same frame
    frame = pixels(1, 32, 32)

    def patches(trained, clips):
        embed = OverlappingPatchEmbed(8, trained.model.encoder.patch)
        return embed.apply({"params": trained.params["encoder"]["patch_embed"]}, clips)

    of_video = patches(video, np.repeat(frame, 4, 1))
    np.testing.assert_allclose(patches(image, frame)[:, 0], of_video[:, 1], atol=1e-5)
    assert np.abs(of_video[:, 0] - of_video[:, 1]).max() > 0.1

    def only_middle(path, leaf):
        kernel = path[-1].key == "kernel" and leaf.shape[:1] == (3,)
        return leaf * np.array([0, 1, 0]).reshape(3, 1, 1, 1, 1) if kernel else leaf

    params = jax.tree_util.tree_map_with_path(only_middle, video.params)
    video = convert.resized(dataclasses.replace(video, params=params), (2, 32, 32))
    image = convert.resized(video, (1, 32, 32))
    expected = outputs(video, np.repeat(frame, 2, 1))
    np.testing.assert_allclose(outputs(image, frame), expected, atol=1e-5)


def test_an_mvit_of_images_becomes_one_of_videos_and_back():
    image = mvit((1, 8, 8), (1, 32, 32))
    video = convert.resized(image, (4, 32, 32))
    assert video.model.encoder == image.model.encoder.clone(tubelet=(2, 8, 8))
    assert video.params["encoder"]["patch_embed"]["kernel"].shape == (3, 7, 7, 3, 8)
    again = convert.resized(video, image.clip)
    assert again.model == image.model
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again.params, image.params
    )
    with pytest.raises(convert.ConvertError, match="it supports an MViT of videos"):
        convert.export(image, "pyslowfast")


def test_a_video_autoencoder_is_exported_as_an_encoder_of_images(tmp_path, capsys):
    convert.save(small("mae_st"), tmp_path / "ours", "mae_st")
    words = [str(tmp_path / "ours"), str(tmp_path / "timm"), "--to=timm", "--resize", "1", "48"]
    command([*words, "48"])
    assert "decoder is left out: it is of clips with another number" in capsys.readouterr().out
    read = convert.load_torch(tmp_path / "timm")
    assert isinstance(read.model, Features)
    assert read.clip == (1, 48, 48)
    expected = convert.resized(small("mae_st"), (1, 48, 48))
    assert_same(read.params, expected.params)


FINETUNE = "finetune_mae_vit_in1k:b16"


def recipe_from(folder, name=FINETUNE, **model):
    recipe = shrunken(name)
    recipe["model"] |= {"width": 32, "depth": 2, "heads": 2, "init_from": str(folder), **model}
    return recipe


def test_a_run_on_images_starts_from_a_model_of_videos(tmp_path):
    trained = small("mae_st")
    convert.save(trained, tmp_path / "ours", "mae_st")
    experiment = build(recipe_from(tmp_path / "ours"))
    with pytest.raises(TransferError, match=r"patch_embed.*model\.init_resize=True"):
        experiment.init()
    experiment = build(recipe_from(tmp_path / "ours", init_resize=True))
    found = initial_params(experiment.task, 0, experiment.init_from)["encoder"]
    expected = convert.resized(trained, (1, 32, 32)).params["encoder"]
    assert_same(found, expected)
    kernel = trained.params["encoder"]["patch_embed"]["kernel"]
    np.testing.assert_allclose(found["patch_embed"]["kernel"][0], kernel.sum(0), rtol=1e-6)
    fixed = build(recipe_from(tmp_path / "ours", init_resize=True, positions="sincos"))
    with pytest.raises(TransferError, match="Set model.positions='joint'"):
        initial_params(fixed.task, 0, fixed.init_from)


def test_images_are_compared_by_a_frozen_model_of_videos(tmp_path):
    """Its tokens have two frames, but not after it became a model of images."""
    convert.save(small("mae_st"), tmp_path / "ours", "mae_st")
    recipe = recipe_from(
        tmp_path / "ours", name="knn_mae_vit_in1k:b16", init_resize=True, positions="joint"
    )
    experiment = build(recipe)
    params = initial_params(experiment.task, 0, experiment.init_from)
    assert_same(params, convert.resized(small("mae_st"), (1, 32, 32)).params)


def test_a_run_on_videos_starts_from_a_model_of_images(tmp_path):
    convert.save(small("mean"), tmp_path / "ours", "timm")
    recipe = shrunken("finetune_mae_vit_kinetics:b16")
    recipe["model"] |= {"width": 32, "depth": 2, "heads": 2, "init_from": str(tmp_path / "ours")}
    recipe["model"] |= {"tubelet": (2, 16, 16), "init_resize": True, "init_parts": ("encoder",)}
    experiment = build(recipe)
    found = initial_params(experiment.task, 0, experiment.init_from)["encoder"]
    assert_same(found, convert.resized(small("mean"), experiment.task.clip).params["encoder"])
    assert not found["pos_embed_temporal"].any()
