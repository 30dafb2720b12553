"""Masked autoencoders against mae_st, PySlowFast and image MAE with random weights: gradients in
float64, the rest in float32.

With `-s`, pytest prints the differences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
import pytest

from bench.originals import mae, mae_st, original, recipe
from maskfeat_jax.losses import MSE
from maskfeat_jax.models import create_model
from maskfeat_jax.models.positions import sincos_table
from maskfeat_jax.ops.patches import token_grid
from maskfeat_jax.targets import Inputs, Pixels
from tests.golden import CLASSIFIER, MAE, MAE_CLASSIFIER, from_torch, join_qkv, mae_of_pyslowfast
from tests.original.model_test import (
    check_gradients,
    difference,
    numbers,
    shapes_of,
    to_torch,
)

VIDEO = np.random.default_rng(0).standard_normal((1, 16, 224, 224, 3), np.float32)
IMAGES = np.random.default_rng(0).standard_normal((2, 1, 224, 224, 3), np.float32)
OF_VIDEO = {"tubelet": (2, 16, 16), "positions": "separate", "scan": True}

SIZES = {"vit_b16": "base", "vit_l16": "large"}
LETTERS = {"vit_b16": "B", "vit_l16": "L"}


class Case(NamedTuple):
    """A model of an original, and the arguments of ours that make it the same.

    Attributes:
      theirs: the model.
      run: gives its loss on clips and its predictions of the masked tokens.
      renames: its names of our parameters.
      clips: what it is run on.
      ratio: of masked tokens.
      encoder, decoder: fields of ours.
      target: ours.
    """

    theirs: Any
    run: Callable[[Any], tuple[Any, Any]]
    renames: dict[str, str]
    clips: np.ndarray
    ratio: float
    encoder: dict[str, Any]
    decoder: dict[str, Any]
    target: Pixels


def case_of_mae_st(encoder):
    build = getattr(mae_st("models_mae"), f"mae_vit_{SIZES[encoder]}_patch16")
    flags = {"sep_pos_embed": True, "cls_embed": True, "norm_pix_loss": True}
    theirs = build(decoder_depth=4, t_patch_size=2, **flags)

    def run(clips):
        loss, predicted, mask = theirs(clips, 0.9)
        return loss, predicted[mask.bool()]

    decoder = {"heads": 16, "positions": "separate", "class_token": "own"}
    target = Pixels((2, 16, 16), channels="last", frames="spread")
    return Case(theirs, run, MAE, VIDEO, 0.9, OF_VIDEO, decoder, target)


def case_of_pyslowfast(encoder):
    settings = recipe(f"masked_ssl/k400_VIT_{LETTERS[encoder]}_16x4_MAE_PT.yaml")
    theirs = original("slowfast.models.masked").MaskMViT(settings)
    loss_of = original("slowfast.models.losses").get_loss_func(settings.MODEL.LOSS_FUNC)()

    def run(clips):
        predicted, wanted = theirs([clips])
        return loss_of(predicted, wanted)[0], predicted[0]

    renames = mae_of_pyslowfast(settings.MASK.DECODER_DEPTH)
    target = Pixels((2, 16, 16), channels="last")
    return Case(theirs, run, renames, VIDEO, settings.AUG.MASK_RATIO, OF_VIDEO, {}, target)


def case_of_image_mae(encoder):
    theirs = getattr(mae("models_mae"), f"mae_vit_{SIZES[encoder]}_patch16")(norm_pix_loss=True)

    def run(clips):
        loss, predicted, mask = theirs(clips, 0.75)
        return loss, predicted[mask.bool()]

    fields = {"positions": "sincos", "scan": True}
    decoder = {"depth": 8, "heads": 16, "positions": "sincos"}
    target = Pixels((1, 16, 16), channels="last")
    return Case(theirs, run, MAE, IMAGES, 0.75, fields, decoder, target)


def randomise(model):
    """Moves the parameters that are learnt away from zeros and ones."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape))


def draw_mask(clips, tubelet, ratio):
    """Noise of the tokens, the mask that the originals make of it, and how many are visible."""
    grid = token_grid(clips.shape[1:4], tubelet)
    tokens = np.prod(grid)
    visible = int(tokens * (1 - ratio))
    noise = np.random.default_rng(1).random((len(clips), tokens), np.float32)
    return noise, (noise.argsort(1).argsort(1) >= visible).reshape(-1, *grid), visible


def from_theirs(shapes, case, named):
    return from_torch(shapes, case.renames, join_qkv(numbers(named)))


CASES = [
    pytest.param(case_of_mae_st, "vit_b16", marks=pytest.mark.original("MAE_ST_DIR")),
    pytest.param(case_of_mae_st, "vit_l16", marks=pytest.mark.original("MAE_ST_DIR")),
    pytest.param(case_of_pyslowfast, "vit_b16", marks=pytest.mark.original),
    pytest.param(case_of_pyslowfast, "vit_l16", marks=pytest.mark.original),
    pytest.param(case_of_image_mae, "vit_b16", marks=pytest.mark.original("MAE_DIR")),
]


def both(make_case, encoder, seed, dtype):
    """The case, its loss and predictions; our loss, a function of parameters, and these."""
    import torch

    torch.manual_seed(seed)
    case = make_case(encoder)
    randomise(case.theirs)
    noise, mask, visible = draw_mask(case.clips, case.target.tubelet, case.ratio)
    clips = case.clips.astype(dtype)
    if dtype == np.float64:
        case.theirs.double()
    with mock.patch.object(torch, "rand", return_value=torch.tensor(noise)):
        loss, predicted = case.run(to_torch(clips))
    model = create_model(
        "mae",
        encoder=encoder,
        head={"dim": case.target.dim, "visible": visible, **case.decoder},
        **case.encoder,
        dtype=np.dtype(dtype).name,
    )
    shapes = shapes_of(model, clips, mask)
    params = from_theirs(shapes, case, case.theirs.named_parameters())

    def loss_of(params):
        ours = model.apply({"params": params}, clips, mask)
        by_token = MSE()(ours, case.target(Inputs(clips)))["loss"]
        return by_token[mask].mean(), ours[mask]

    return case, loss, predicted, loss_of, params, shapes


@pytest.mark.slow
@pytest.mark.parametrize(("make_case", "encoder"), CASES)
def test_predictions_and_loss(make_case, encoder):
    import torch

    with torch.no_grad():
        _, loss, predicted, loss_of, params, _ = both(make_case, encoder, 0, np.float32)
    our_loss, ours = jax.jit(loss_of)(params)
    name = f"{make_case.__name__.removeprefix('case_of_')} {encoder}"
    assert difference(f"{name} predictions", ours, predicted.numpy()) < 1e-5
    assert difference(f"{name} loss", our_loss, loss.numpy()) < 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("make_case", "encoder"), CASES)
def test_gradients(make_case, encoder, seed):
    case, loss, _, loss_of, params, shapes = both(make_case, encoder, seed, np.float64)
    loss.backward()
    theirs = from_theirs(shapes, case, gradients(case.theirs))
    ours, _ = jax.jit(jax.grad(loss_of, has_aux=True))(params)
    check_gradients(f"{make_case.__name__.removeprefix('case_of_')}, seed {seed},", ours, theirs)


def gradients(model):
    """Names and gradients of parameters; zeros of those that are fixed."""
    import torch

    for name, parameter in model.named_parameters():
        fixed = parameter.grad is None
        assert fixed is not parameter.requires_grad
        yield name, torch.zeros_like(parameter) if fixed else parameter.grad


@pytest.mark.original
@pytest.mark.parametrize("frames", ["first", "all"])
def test_pixels_of_pyslowfast(frames):
    import torch

    config = "masked_ssl/k400_VIT_B_16x4_MAE_PT.yaml"
    settings = recipe(config, MVIT__DEPTH=1, MASK__PRETRAIN_DEPTH=[0])
    theirs = original("slowfast.models.masked").MaskMViT(settings)
    everywhere = [torch.ones(1, 8 * 14 * 14, dtype=torch.bool)]
    ((wanted, _),) = theirs._get_pixel_label_3d(to_torch(VIDEO), everywhere, frames == "first")
    target = Pixels((2, 16, 16), channels="last", frames=frames)
    np.testing.assert_allclose(target(VIDEO).reshape(wanted.shape), wanted, atol=1e-5)


def classifier_of_mae_st():
    build = mae_st("models_vit").vit_base_patch16
    flags = {"sep_pos_embed": True, "cls_embed": True}
    theirs = build(num_frames=16, t_patch_size=2, dropout=0.0, **flags)
    return theirs, theirs, MAE_CLASSIFIER


def classifier_of_pyslowfast():
    changes = {"MVIT__DROPPATH_RATE": 0.0, "MODEL__DROPOUT_RATE": 0.0}
    settings = recipe("masked_ssl/k400_VIT_B_16x4_FT.yaml", **changes)
    theirs = original("slowfast.models.video_model_builder").MViT(settings).train()
    return theirs, lambda clips: theirs([clips]), CLASSIFIER


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        pytest.param(classifier_of_mae_st, marks=pytest.mark.original("MAE_ST_DIR")),
        pytest.param(classifier_of_pyslowfast, marks=pytest.mark.original),
    ],
)
def test_logits_of_the_classifier(build):
    import torch

    torch.manual_seed(0)
    theirs, run, renames = build()
    randomise(theirs)
    with torch.no_grad():
        logits = run(to_torch(VIDEO)).numpy()
    head = {"num_classes": 400, "dropout": 0.3}
    model = create_model("classifier", encoder="vit_b16", head=head, **OF_VIDEO)
    named = join_qkv(numbers(theirs.named_parameters()))
    params = from_torch(shapes_of(model, VIDEO), renames, named)
    ours = jax.jit(model.apply)({"params": params}, VIDEO)
    assert difference(f"{build.__name__.replace('_', ' ')}, logits", ours, logits) < 1e-5


@pytest.mark.original("MAE_DIR")
def test_sines_and_cosines_of_images():
    table = mae("util.pos_embed").get_2d_sincos_pos_embed
    ours = sincos_table((1, 14, 14), 192)[0]
    np.testing.assert_allclose(ours, table(192, 14, cls_token=True), atol=2e-6)


@pytest.mark.original
def test_sines_and_cosines_of_videos():
    table = original("slowfast.models.utils").get_3d_sincos_pos_embed
    ours = sincos_table((8, 7, 7), 192)[0]
    np.testing.assert_allclose(ours, table(192, 7, 8, cls_token=True), atol=2e-6)
