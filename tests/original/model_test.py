"""Whole models against PySlowFast with its random weights: outputs and loss in float32, gradients
in float64, where no rounding chooses another maximum.

With `-s`, pytest prints the differences.
"""

from __future__ import annotations

import contextlib
import io
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import pytest

from bench.originals import original, recipe
from maskfeat_jax import losses
from maskfeat_jax.masking import Block
from maskfeat_jax.models import create_model
from maskfeat_jax.models.layers import unstack_blocks
from maskfeat_jax.optim import decayed, layer_scales
from maskfeat_jax.targets import Hog, Inputs
from tests.golden import CLASSIFIER, PRETRAINING, from_torch

pytestmark = [pytest.mark.original, pytest.mark.slow]

GRADIENT = 1e-9  # of the largest number of an array; 1e-14 with both seeds
IMAGES = np.random.default_rng(0).standard_normal((2, 1, 224, 224, 3), np.float32)
VIDEO = np.random.default_rng(0).standard_normal((1, 16, 224, 224, 3), np.float32)


def to_torch(clips):
    """Clips in the layout of the originals, which have no time in images."""
    import torch

    clips = torch.tensor(clips.transpose(0, 4, 1, 2, 3))
    return clips[:, :, 0] if clips.shape[2] == 1 else clips


def numbers(named):
    return {name: value.detach().numpy() for name, value in named}


def doubled(model):
    """An original in float64, but for its HOG, which knows float32 alone."""
    hog = original("slowfast.models.operators").HOGLayerC
    for module in model.double().modules():
        if isinstance(module, hog):
            module.float().register_forward_pre_hook(lambda _, clips: clips[0].float())
    return model


def shapes_of(model, *inputs):
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def difference(what, ours, theirs):
    """Largest difference, relative to the largest number."""
    largest = np.abs(np.asarray(ours) - theirs).max()
    print(f"{what:<46} largest difference {largest:.1e} of {np.abs(theirs).max():.1e}")
    return largest / np.abs(theirs).max()


class Pretraining(NamedTuple):
    """A model of ours and what the original gives with the same parameters, in our layout."""

    name: str
    model: nn.Module
    clips: np.ndarray
    mask: np.ndarray
    params: dict
    predicted: np.ndarray
    wanted: np.ndarray
    loss: float
    grads: dict | None


def run_pretraining(config, encoder, clips, mask, *, seed=None, **fields):
    """Both models on the same clips; `mask` is that of the tokens.

    With a seed of the weights in float64 and with gradients, else in float32 without.
    """
    import torch

    torch.manual_seed(seed or 0)
    grads = seed is not None
    theirs = original("slowfast.models.masked").MaskMViT(recipe(config)).train()
    if grads:
        theirs, clips, fields = doubled(theirs), clips.astype(float), {**fields, "dtype": "float64"}
    frames = clips.shape[1]
    cells = mask[:, 0] if frames == 1 else mask[:, :, ::2, ::2]  # of two by two tokens
    cells = torch.tensor(cells.astype(clips.dtype))
    with torch.set_grad_enabled(grads):
        predicted, wanted = theirs([to_torch(clips), torch.Tensor(), cells])
    loss, _ = original("slowfast.models.losses").get_loss_func("multi_mse")()(predicted, wanted)
    model = create_model("maskfeat", encoder=encoder, head={"dim": 108}, **fields)
    shapes = shapes_of(model, clips, mask)
    params = from_torch(shapes, PRETRAINING, numbers(theirs.named_parameters()))
    their_grads = None
    if grads:
        loss.backward()
        named = ((name, p.grad) for name, p in theirs.named_parameters() if p.grad is not None)
        their_grads = from_torch(shapes, PRETRAINING, numbers(named))
    wanted, predicted = (x[0].detach().numpy() for x in (wanted[0], predicted))
    return Pretraining(
        encoder, model, clips, mask, params, predicted, wanted, loss.item(), their_grads
    )


CUBES = np.random.default_rng(1).random((1, 8, 7, 7)) < 0.4
CUBES = CUBES.repeat(2, 2).repeat(2, 3)


def run_vit_b(seed=None):
    with jax.enable_x64(False):
        mask = np.asarray(Block()(jax.random.key(1), 2, (1, 14, 14)))
    config = "masked_ssl/in1k_VIT_B_MaskFeat_PT.yaml"
    return run_pretraining(config, "vit_b16", IMAGES, mask, seed=seed)


def run_mvit(size, seed=None):
    config = f"masked_ssl/k400_MVITv2_{size}_16x4_MaskFeat_PT.yaml"
    fields = {"tubelet": (2, 16, 16), "scan": True}
    return run_pretraining(config, f"mvit_v2_{size.lower()}", VIDEO, CUBES, seed=seed, **fields)


@pytest.mark.parametrize(
    "run", [run_vit_b, lambda: run_mvit("S"), lambda: run_mvit("L")], ids=["vit_b", "s", "l"]
)
def test_predictions_targets_and_loss_of_masked_tokens(run):
    case = run()
    target = Hog(case.model.encoder.tubelet)
    ours = jax.jit(case.model.apply)({"params": case.params}, case.clips, case.mask)
    ours, hog = np.asarray(ours)[case.mask], np.asarray(target(Inputs(case.clips)))[case.mask]
    assert difference(f"{case.name} predictions", ours, case.predicted) < 1e-5
    differs = np.abs(hog - case.wanted) > 1e-4
    print(f"{case.name} HOG: {differs.mean():.1e} of the numbers differ by more than 1e-4")
    assert differs.mean() < 1e-4
    loss = np.square(ours - hog).mean()
    assert difference(f"{case.name} loss", loss, np.float64(case.loss)) < 1e-5


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("run", [run_vit_b, lambda seed: run_mvit("S", seed)], ids=["vit_b", "s"])
def test_gradients(run, seed):
    case = run(seed)
    # Its targets: where its HOG chooses another bin, other gradients would be right.
    wanted = np.zeros((*case.mask.shape, case.wanted.shape[-1]))
    wanted[case.mask] = case.wanted

    def loss_of(params):
        predicted = case.model.apply({"params": params}, case.clips, case.mask)
        return losses.MSE()(predicted, wanted)["loss"][case.mask].mean()

    ours, grads = jax.jit(jax.value_and_grad(loss_of))(case.params)
    np.testing.assert_allclose(ours, case.loss, rtol=1e-12)
    check_gradients(f"{case.name}, seed {seed},", grads, case.grads)


def check_gradients(what, ours, theirs):
    """Each array within `GRADIENT` of its largest number; prints those of the largest differences.

    The exact gradient of the bias of the keys is zero: noise counts against the largest of all.
    """
    theirs = unstack_blocks(theirs)
    leaves = jax.tree_util.tree_leaves_with_path(unstack_blocks(ours))
    floor = 1e-3 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs))
    errors = {}
    for (path, a), b in zip(leaves, jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype == np.float64
        name = "/".join(key.key for key in path)
        errors[name] = np.abs(np.asarray(a) - b).max() / max(np.abs(b).max(), floor)
    worst = sorted(errors, key=errors.__getitem__)[-3:]
    for name in ("encoder/patch_embed/kernel", *worst):
        print(f"{what + ' gradient of ' + name:<60} differs by {errors[name]:.1e} of its largest")
    assert errors[worst[-1]] < GRADIENT, (worst[-1], errors[worst[-1]])


def run_classifier(config, encoder, clips, **fields):
    """The original, its settings, our model and the shapes of its parameters."""
    import torch

    torch.manual_seed(0)
    changes = {"MVIT__DROPPATH_RATE": 0.0, "MODEL__DROPOUT_RATE": 0.0}
    # The supervised recipe reads the class token; ours has the head of fine-tuning.
    settings = recipe(config, MVIT__USE_MEAN_POOLING=True, **changes)
    theirs = original("slowfast.models.video_model_builder").MViT(settings).train()
    with torch.no_grad():
        theirs.head.projection.weight.normal_(std=0.05)  # begins a thousand times smaller
    classes = settings.MODEL.NUM_CLASSES
    model = create_model("classifier", encoder=encoder, head={"num_classes": classes}, **fields)
    return theirs, settings, model, shapes_of(model, clips)


CLASSIFIERS = [
    ("masked_ssl/in1k_VIT_B_MaskFeat_FT.yaml", "vit_b16"),
    ("masked_ssl/k400_MVITv2_S_16x4_FT.yaml", "mvit_v2_s"),
    ("masked_ssl/k400_MVITv2_L_16x4_FT.yaml", "mvit_v2_l"),
    ("Kinetics/MVITv2_S_16x4.yaml", "mvit_v2_s_supervised"),
]


@pytest.mark.parametrize(("config", "encoder"), CLASSIFIERS)
def test_logits_of_the_classifier(config, encoder):
    import torch

    clips = IMAGES if encoder.startswith("vit") else VIDEO
    theirs, _, model, shapes = run_classifier(config, encoder, clips, scan=True)
    with torch.no_grad():
        logits = theirs([to_torch(clips)]).numpy()
    params = from_torch(shapes, CLASSIFIER, numbers(theirs.named_parameters()))
    ours = jax.jit(model.apply)({"params": params}, clips)
    assert difference(f"{encoder} logits", ours, logits) < 1e-5


@pytest.mark.parametrize(("config", "encoder"), CLASSIFIERS)
def test_layer_decay_and_weight_decay_of_the_classifier(config, encoder):
    clips = IMAGES if encoder.startswith("vit") else VIDEO
    theirs, settings, _, shapes = run_classifier(config, encoder, clips)
    with contextlib.redirect_stdout(io.StringIO()):
        groups = original("slowfast.models.optimizer").get_param_groups(theirs, settings)
    scale, decay = ({}, {})
    for name, parameter in theirs.named_parameters():
        group = next(g for g in groups if any(p is parameter for p in g["params"]))
        scale[name] = np.full(parameter.shape, group["layer_decay"], np.float32)
        decay[name] = np.full(parameter.shape, group["weight_decay"] > 0)
    our_scale = layer_scales(shapes, settings.SOLVER.LAYER_DECAY)
    for ours, theirs_named in ((our_scale, scale), (decayed(shapes), decay)):
        wanted = from_torch(shapes, CLASSIFIER, theirs_named)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b.flat[0], rtol=1e-6), ours, wanted)
