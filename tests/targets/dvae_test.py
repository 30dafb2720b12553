from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from maskfeat_jax import sharding
from maskfeat_jax.augment import Normalise
from maskfeat_jax.commands.collectives import operations
from maskfeat_jax.commands.estimate import batch_shapes
from maskfeat_jax.models import create_model
from maskfeat_jax.models.dvae import map_pixels
from maskfeat_jax.sections import RecipeError
from maskfeat_jax.targets import Dvae, Inputs
from maskfeat_jax.targets.dvae import colours, lanczos
from maskfeat_jax.training.build import build
from tests.models.dvae_states import decoder_shapes, encoder_shapes, filled
from tests.models.initial import shapes_of
from tests.recipes import shrunken
from tests.sharding_test import run

SMALL = {"hidden": 8, "blocks": 1, "vocabulary": 32, "dtype": "float32"}
DECODER = {"decoder_hidden": 8, "decoder_blocks": 1, "decoder_initial": 4}
NORMALISE = Normalise()


def weights_of(target):
    """Kernels without mean, so that ids tell contents, not brightness; no biases."""
    draws = np.random.default_rng(0)

    def fill(leaf):
        values = draws.standard_normal(leaf.shape)
        values = values - values.mean((0, 1, 2)) if leaf.ndim == 4 else 0 * values
        return values.astype(leaf.dtype)

    return jax.tree.map(fill, target.teacher)


def video(t=1, h=64, w=48):
    """Smooth shapes and noise."""
    draws = np.random.default_rng(1)
    small = draws.integers(0, 256, (2 * t, h // 16, w // 16, 3)).astype(np.uint8)
    large = np.stack([Image.fromarray(x).resize((w, h), Image.Resampling.BICUBIC) for x in small])
    noisy = large.astype(int) + draws.integers(-20, 20, large.shape)
    return noisy.clip(0, 255).astype(np.uint8).reshape(2, t, h, w, 3)


def resized(frames, height, width):
    """With Pillow."""
    small = [Image.fromarray(x).resize((width, height), Image.Resampling.LANCZOS) for x in frames]
    return np.stack(small)


def test_lanczos_is_that_of_pillow():
    frames = video(t=3, h=224, w=224).reshape(-1, 224, 224, 3)
    for height, width in ((112, 112), (128, 96), (224, 280)):
        ours = 255 * jax.jit(functools.partial(lanczos, height=height, width=width))(frames / 255)
        difference = np.abs(ours - resized(frames, height, width))
        assert difference.max() < 1.1  # its weights have 22 bits
        assert (difference > 0.1).mean() < 1e-3


@pytest.mark.parametrize("resize", ["mean", "lanczos"])
def test_ids_are_those_of_the_first_frame_of_each_token(resize):
    target = Dvae((2, 16, 16), resize=resize, **SMALL)
    teacher, clips = weights_of(target), video(t=4)
    inputs = Inputs(NORMALISE(clips), NORMALISE, teacher)
    ids = np.asarray(jax.jit(target)(inputs))
    assert ids.dtype == np.int32
    assert ids.shape == (2, 2, 4, 3)
    assert len(np.unique(ids)) > 10
    frames = clips[:, ::2].reshape(4, 64, 48, 3)
    if resize == "mean":
        small = frames.reshape(4, 32, 2, 24, 2, 3).mean((2, 4))
    else:
        small = resized(frames, 32, 24)
    encode = jax.jit(target.encoder_model.apply)
    logits = encode({"params": teacher["encoder"]}, map_pixels(np.float32(small / 255)))
    assert (ids.reshape(4, 4, 3) == logits.argmax(-1)).mean() > 0.97


def test_any_patch_with_lanczos():
    target = Dvae((1, 14, 14), resize="lanczos", **SMALL)
    clips = NORMALISE(video(h=56, w=42))
    ids = jax.eval_shape(target, Inputs(clips, NORMALISE, target.teacher))
    assert ids.shape == (2, 1, 4, 3)


def test_refuses():
    with pytest.raises(ValueError, match="patch 14x14 cannot become the 8x8 pixels .* multiple"):
        Dvae((1, 14, 14))
    with pytest.raises(ValueError, match="resize='area' is not one of mean, lanczos"):
        Dvae((1, 16, 16), resize="area")
    with pytest.raises(ValueError, match="dtype='float16'"):
        Dvae((1, 16, 16), dtype="float16")


def test_weights_are_those_of_the_published_encoder_in_bfloat16():
    leaves = jax.tree.leaves(Dvae((1, 16, 16)).teacher)
    assert sum(leaf.size for leaf in leaves) == 53_786_240
    assert {str(leaf.dtype) for leaf in leaves} == {"bfloat16", "float32"}
    assert Dvae((1, 16, 16)).dim == 8192
    assert Dvae((1, 16, 16)).teacher_products((1, 224, 224)) == pytest.approx(26.06e9, rel=1e-3)
    assert Dvae((2, 16, 16)).teacher_products((16, 224, 224)) == pytest.approx(208e9, rel=3e-3)


def test_pictures_of_ids_and_of_decoded_images():
    assert len(np.unique(colours(np.arange(8192)), axis=0)) == 8192
    plain = Dvae((1, 16, 16), **SMALL)
    inputs = Inputs(NORMALISE(video()), NORMALISE, weights_of(plain))
    ids = jax.random.randint(jax.random.key(0), (2, 1, 4, 3), 0, 32)
    logits = jax.nn.one_hot(ids, 32)
    restored = [
        np.asarray(plain.restore(ids, inputs, predicted=False)),
        np.asarray(plain.restore(logits, inputs, predicted=True)),
    ]
    np.testing.assert_array_equal(*restored)
    picture = plain.draw(restored[0][0, 0], NORMALISE.mean, NORMALISE.std)
    np.testing.assert_array_equal(picture[::16, ::16], colours(np.asarray(ids)[0, 0]))
    decoded = Dvae((1, 16, 16), decoder="decoder.pkl", **SMALL, **DECODER)
    inputs = inputs._replace(teacher=weights_of(decoded))
    restored = jax.jit(functools.partial(decoded.restore, predicted=True))(logits, inputs)
    decode = jax.jit(decoded.decoder_model.apply)
    image = decode({"params": inputs.teacher["decoder"]}, ids[:, 0])
    picture = decoded.draw(np.asarray(restored)[1, 0], NORMALISE.mean, NORMALISE.std)
    np.testing.assert_array_equal(picture, np.round(255 * np.asarray(image[1])).astype(np.uint8))
    assert picture.std() > 1


def on_devices():
    """Ids on a mesh and without, and the shapes of what the devices send."""
    target = Dvae((1, 16, 16), **SMALL)
    mesh = sharding.create_mesh(parameters=2)
    clips = NORMALISE(np.concatenate([video(), video()[::-1]]))
    teacher = weights_of(target)
    alone = target(Inputs(clips, NORMALISE, teacher))
    model = create_model("maskfeat", encoder="vit_ti16", head={"dim": 32}, depth=1)
    state = {"params": shapes_of(model, (1, 64, 48)), "teacher": teacher}
    layout = sharding.state_sharding(mesh, state)["teacher"]
    function = jax.jit(
        sharding.on_mesh(mesh, lambda clips, teacher: target(Inputs(clips, NORMALISE, teacher))),
        in_shardings=(sharding.batch_sharding(mesh), layout),
    )
    program = function.lower(clips, teacher).compile()
    sent = {(each.kind, shape) for each in operations(program.as_text()) for shape in each.shapes}
    return np.asarray(function(clips, teacher)).tolist(), np.asarray(alone).tolist(), sorted(sent)


def test_each_device_encodes_its_own_rows_with_gathered_weights():
    ((ids, alone, sent),) = run(4, "on_devices", module="tests.targets.dvae_test")
    assert ids == alone
    assert {kind for kind, _ in sent} == {"all-gather"}
    weights = {leaf.shape for leaf in jax.tree.leaves(Dvae((1, 16, 16), **SMALL).teacher)}
    assert {tuple(shape) for _, shape in sent} <= weights


def saved(folder, name, shapes):
    path = folder / name
    safetensors.numpy.save_file(filled(shapes), path)
    return str(path)


@pytest.fixture
def recipe(tmp_path):
    """A small recipe with files of an encoder and a decoder."""
    recipe = shrunken("maskfeat_vit_in1k:b16")
    encoder = saved(tmp_path, "encoder.safetensors", encoder_shapes(8, 1, 16))
    decoder = saved(tmp_path, "decoder.safetensors", decoder_shapes(8, 1, 16, 12))
    recipe["target"] = {"name": "dvae", "file": encoder, "decoder": decoder, "dtype": "float32"}
    return recipe


def test_training_takes_the_network_from_its_file(recipe):
    experiment = build(recipe)
    target = experiment.task.target
    assert (target.hidden, target.blocks, target.vocabulary, target.decoder_initial) == (
        8,
        1,
        16,
        12,
    )
    assert experiment.recipe["target"]["sha256"] == target.sha256 != ""
    kernel = filled(encoder_shapes(8, 1, 16))["blocks.input.w"]
    teacher = experiment.load_teacher()
    found = np.asarray(teacher["encoder"]["input"]["kernel"])
    np.testing.assert_array_equal(found, kernel.transpose(2, 3, 1, 0))
    step = functools.partial(experiment.task.train_step, optimizer=experiment.optimizer)
    batch = batch_shapes(experiment.task, experiment.mesh, 8)
    state, metrics = jax.eval_shape(step, experiment.abstract_state, batch)
    assert {"loss", "accuracy"} <= set(metrics)
    assert jax.tree.structure(state.teacher) == jax.tree.structure(teacher)


def test_files_that_do_not_fit_are_refused(recipe, tmp_path):
    target = recipe["target"]
    other = saved(tmp_path, "other.safetensors", decoder_shapes(8, 1, 32, 12))
    for changes, message in (
        ({"file": ""}, "target.file: missing"),
        ({"file": "none.pkl"}, "target.file='none.pkl': none.pkl: no such file"),
        ({"file": target["decoder"]}, "first convolution .* an encoder"),
        ({"sha256": "00"}, "has the SHA-256 [0-9a-f]{64}, but sha256 is 00"),
        ({"decoder": other}, "has 16 ids, but decoder=.* has 32"),
    ):
        with pytest.raises(RecipeError, match=message):
            build({**recipe, "target": {**target, **changes}})
