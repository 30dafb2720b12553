"""The classifier of boxes against PySlowFast's with the same weights: outputs and loss in float32,
gradients in float64; also for frames of another shape than at initialisation.

torchvision has the layer that PySlowFast takes from detectron2. With `-s`, pytest prints the
differences.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from bench.originals import make_importable, original
from maskfeat_jax import convert
from maskfeat_jax.convert.verify import ORIGINALS
from maskfeat_jax.losses import binary_cross_entropy
from maskfeat_jax.models import create_model
from tests.golden import CLASSIFIER, from_torch
from tests.original.checkpoints import MVIT, SEPARATE, VIDEO, Model, with_random_numbers
from tests.original.model_test import check_gradients, difference, to_torch

pytestmark = pytest.mark.original("SLOWFAST_DIR", "torchvision")

SQUARE, WIDE = (128, 128), (150, 218)  # height and width; a rest of the wide ones fills no token
CLASSES = 6
HEAD = {"num_classes": CLASSES, "dropout": 0.0}
ENCODERS = {"joint": VIDEO, "separate": SEPARATE, "mvit": MVIT}


def made(name, **fields):
    """A model with random numbers in float32."""
    encoder = {**ENCODERS[name], **fields}
    model = create_model("boxes", head=HEAD, **encoder)
    return with_random_numbers(Model(model, (4, *SQUARE), ""))


@functools.cache
def theirs(name):
    """PySlowFast's model of the settings that are exported, with the weights that are exported."""
    import torch

    make_importable("SLOWFAST_DIR")
    trained = made(name)
    state = convert.export(trained, "pyslowfast").state
    model = ORIGINALS["pyslowfast"].build(trained, frozenset(state))
    model.load_state_dict({key: torch.tensor(tensor) for key, tensor in state.items()})
    return model.train()


def examples(height, width):
    """Two clips; boxes: large, beyond the centre, at a border, tiny, empty; random, and padding."""
    rng = np.random.default_rng(0)
    clips = rng.standard_normal((2, 4, height, width, 3))
    right, bottom = width - 1, height - 1
    of_first = [
        [0, 0, right, bottom],
        [width / 2 + 3, height / 2 + 5, right - 2, bottom - 9],
        [0, 0.3 * height, 0.2 * width, bottom],
        [right - 1.5, bottom - 0.5, right, bottom],
        [40.2, 33.1, 40.9, 34.5],
        [right, 20, right, 50],
    ]
    corners = np.sort(rng.uniform(0, [right, bottom], (4, 2, 2)), axis=1).reshape(4, 4)
    boxes = np.stack([of_first, [*corners, [0] * 4, [0] * 4]])
    exists = np.arange(6) < [[6], [4]]
    return clips, boxes, rng.random((2, 6, CLASSES)) < 0.3, exists


def to_rows(boxes, exists):
    """The boxes of all clips as PySlowFast takes them, with the number of the clip."""
    import torch

    rows = np.hstack([np.nonzero(exists)[0][:, None], boxes[exists]])
    return torch.tensor(rows.astype(boxes.dtype))


def bce():
    return original("slowfast.models.losses").get_loss_func("bce")(reduction="mean")


@pytest.fixture
def run(request, monkeypatch):
    """PySlowFast's model, the name of ours, and examples of a shape."""
    name, shape = request.param
    model = theirs(name)
    # It asserts that the grid of patches is the one at initialisation.
    for side, pixels in zip("HW", shape, strict=True):
        monkeypatch.setattr(model, side, -(-pixels // 4) if name == "mvit" else pixels // 16)
    return model, name, *examples(*shape)


RUNS = [(name, shape) for name in ENCODERS for shape in (SQUARE, WIDE)]
both_shapes = pytest.mark.parametrize("run", RUNS, indirect=True, ids="{0[0]}-{0[1][1]}".format)


@both_shapes
def test_probabilities_and_loss(run):
    import torch

    model, name, clips, boxes, classes, exists = run
    clips, boxes = clips.astype(np.float32), boxes.astype(np.float32)
    trained, what = made(name), f"{name}, {clips.shape[3]} wide:"
    with torch.no_grad():
        expected = model.float()([to_torch(clips)], to_rows(boxes, exists))
        loss = bce()(expected, torch.tensor(classes[exists]).float())
    logits = jax.jit(trained.model.apply)({"params": trained.params}, clips, boxes)[exists]
    assert np.ptp(expected.numpy(), 0).min() > 0.02
    assert difference(f"{what} probabilities", jax.nn.sigmoid(logits), expected.numpy()) < 1e-5
    ours = binary_cross_entropy(logits, classes[exists]).mean()
    assert difference(f"{what} loss", ours, np.float64(loss)) < 1e-6


@both_shapes
@pytest.mark.usefixtures("float64")
def test_gradients(run):
    import torch

    model, name, clips, boxes, classes, exists = run
    trained = made(name, dtype="float64")
    model.double().zero_grad()
    probabilities = model([to_torch(clips)], to_rows(boxes, exists))
    loss = bce()(probabilities, torch.tensor(classes[exists]).double())
    loss.backward()
    gradients = {key: each.grad.numpy() for key, each in model.named_parameters()}

    def loss_of(params):
        logits = trained.model.apply({"params": params}, clips, boxes)
        return (binary_cross_entropy(logits, classes) * exists).sum() / exists.sum()

    params = jax.tree.map(lambda leaf: leaf.astype(float), trained.params)
    ours, own = jax.jit(jax.value_and_grad(loss_of))(params)
    np.testing.assert_allclose(ours, loss.item(), rtol=1e-12)
    expected = from_torch(trained.params, CLASSIFIER, gradients)
    check_gradients(f"{name}, {clips.shape[3]} wide:", own, expected)
