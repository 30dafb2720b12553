"""Whole models against PySlowFast with its random weights: outputs, loss, gradients; float32."""

from __future__ import annotations

import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench.originals import original, recipe
from maskfeat_jax import losses
from maskfeat_jax.masking import Block
from maskfeat_jax.models import create_model
from maskfeat_jax.optim import decayed, layer_scales
from maskfeat_jax.targets import Hog
from tests.golden import CLASSIFIER, PRETRAINING, from_torch

pytestmark = [pytest.mark.original, pytest.mark.slow]

CLIPS = np.random.default_rng(0).standard_normal((2, 1, 224, 224, 3), np.float32)


def images():
    import torch

    return torch.tensor(CLIPS[:, 0].transpose(0, 3, 1, 2))


def numbers(named):
    return {name: value.detach().numpy() for name, value in named}


def shapes_of(model, *inputs):
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def relative(ours, theirs):
    """Largest difference, relative to the largest number."""
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.fixture(scope="module")
def pretraining():
    """Parameters, predictions, loss and gradients of the original, in our layout; our model."""
    import torch

    torch.manual_seed(0)
    theirs = original("slowfast.models.masked").MaskMViT(
        recipe("masked_ssl/in1k_VIT_B_MaskFeat_PT.yaml")
    )
    mask = np.asarray(Block()(jax.random.key(1), 2, (1, 14, 14)))
    theirs.train()
    predicted, wanted = theirs([images(), torch.Tensor(), torch.tensor(mask[:, 0]).float()])
    loss, _ = original("slowfast.models.losses").get_loss_func("multi_mse")()(predicted, wanted)
    loss.backward()
    model = create_model("maskfeat", encoder="vit_b16", head={"dim": 108})
    shapes = shapes_of(model, CLIPS, mask)
    params = from_torch(shapes, PRETRAINING, numbers(theirs.named_parameters()))
    grads = ((name, p.grad) for name, p in theirs.named_parameters() if p.grad is not None)
    grads = from_torch(shapes, PRETRAINING, numbers(grads))
    wanted, predicted = (x[0].detach().numpy() for x in (wanted[0], predicted))
    return model, mask, params, predicted, wanted, loss.item(), grads


def test_predictions_and_targets_of_masked_tokens(pretraining):
    model, mask, params, predicted, wanted, _, _ = pretraining
    ours = np.asarray(jax.jit(model.apply)({"params": params}, CLIPS, mask))[mask]
    assert relative(ours, predicted) < 1e-5
    hog = np.asarray(Hog((1, 16, 16))(CLIPS))[mask]
    assert (np.abs(hog - wanted) > 1e-4).mean() < 1e-4


def test_loss_and_gradients(pretraining):
    model, mask, params, _, _, loss, grads = pretraining

    def loss_of(params):
        predicted = model.apply({"params": params}, CLIPS, mask)
        total, count = losses.masked_mse(predicted, Hog((1, 16, 16))(CLIPS), jnp.asarray(mask))
        return total / count

    ours, our_grads = jax.jit(jax.value_and_grad(loss_of))(params)
    np.testing.assert_allclose(ours, loss, rtol=1e-5)
    # The exact gradient of the bias of the keys is zero: noise counts against the largest of all.
    floor = 1e-3 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
    pairs = zip(jax.tree_util.tree_leaves_with_path(our_grads), jax.tree.leaves(grads), strict=True)
    for (path, a), b in pairs:
        error = np.abs(np.asarray(a) - b).max() / max(np.abs(b).max(), floor)
        assert error < 1e-3, (jax.tree_util.keystr(path), error)
    for name in ("mask_token", "pos_embed"):
        assert relative(our_grads["encoder"][name], grads["encoder"][name]) < 1e-4
    qkv = ("encoder", "blocks", "5", "attn", "qkv", "kernel")
    embed = ("encoder", "patch_embed", "kernel")
    for path in (qkv, embed):
        a, b = our_grads, grads
        for key in path:
            a, b = a[key], b[key]
        assert relative(a, b) < 1e-4


@pytest.fixture(scope="module")
def classifier():
    import torch

    torch.manual_seed(0)
    settings = recipe("masked_ssl/in1k_VIT_B_MaskFeat_FT.yaml", MVIT__DROPPATH_RATE=0.0)
    theirs = original("slowfast.models.video_model_builder").MViT(settings).train()
    with torch.no_grad():
        theirs.head.projection.weight.normal_(std=0.05)  # begins a thousand times smaller
    model = create_model("classifier", encoder="vit_b16", head={"num_classes": 1000})
    return theirs, settings, model, shapes_of(model, CLIPS)


def test_logits_of_the_classifier(classifier):
    import torch

    theirs, _, model, shapes = classifier
    with torch.no_grad():
        logits = theirs([images()]).numpy()
    params = from_torch(shapes, CLASSIFIER, numbers(theirs.named_parameters()))
    assert relative(jax.jit(model.apply)({"params": params}, CLIPS), logits) < 1e-5


def test_layer_decay_and_weight_decay_of_the_classifier(classifier):
    theirs, settings, _, shapes = classifier
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
