"""Label maps against Token Labeling, RoIAlign against torchvision, tensors against torch."""

from __future__ import annotations

import importlib.util
import io
import os
from pathlib import Path

import numpy as np
import pytest

from bench.originals import let_torchvision_import, make_importable, stand_ins
from input_pipeline.decode.torch_tensor import read_tensor
from maskfeat_jax.augment import Normalise
from maskfeat_jax.ops.roi_align import roi_align
from maskfeat_jax.targets import Inputs, LabelMaps, PseudoLabel
from maskfeat_jax.training.encoder_files import describe_classifier, load

pytestmark = pytest.mark.original("TOKEN_LABELING_DIR", "torchvision")
CLASSES = 30


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """Without compiling, which torchvision does where its own operators are missing: minutes."""
    import torch._dynamo

    monkeypatch.setattr(torch._dynamo.config, "disable", True)


def module(file, stood_in=frozenset()):
    """A module of the original, without its package."""
    let_torchvision_import()
    path = Path(os.environ["TOKEN_LABELING_DIR"]) / file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    with stand_ins(set(stood_in)):
        spec.loader.exec_module(loaded)
    return loaded


def saved(tensor):
    import torch

    file = io.BytesIO()
    torch.save(tensor, file)
    return file.getvalue()


def drawn(seed, b=8):
    """Boxes in fractions, and a map for each as the original saves it."""
    import torch

    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(0, 3, (b, 18, 18, CLASSES)), dtype=torch.float32)
    values, indices = logits.topk(5)
    maps = torch.stack([values.half(), indices.half()], 1).permute(0, 1, 4, 2, 3)
    corners = np.sort(rng.uniform(0, 1, (b, 2, 2)), 1)
    corners[:, 1] = np.minimum(corners[:, 1] + 0.1, 1)  # at least one cell
    return maps, corners.reshape(b, 4).astype(np.float32)


def ours(maps, boxes, flipped, grid):
    read = np.stack([read_tensor(saved(one)) for one in maps])
    given = LabelMaps(read[:, 0], read[:, 1].astype(np.int16), boxes, flipped)
    clips = np.zeros((len(boxes), 1, grid, grid, 3), np.float32)
    return np.asarray(PseudoLabel((1, 1, 1), CLASSES)(Inputs(clips, label_maps=given)))[:, 0]


@pytest.mark.parametrize("grid", [1, 7, 14, 24])
def test_labels_of_tokens(grid):
    import torch

    original = module("tlt/data/mixup.py")
    maps, boxes = drawn(grid)
    dense = original.get_featuremaps(maps, CLASSES, device="cpu")
    theirs = original.get_label(dense, torch.tensor(boxes), label_size=grid, device="cpu")
    theirs = theirs.reshape(len(maps), CLASSES, -1).numpy()[..., -grid * grid :]
    found = ours(maps, boxes, np.zeros(len(maps), bool), grid)
    expected = theirs.reshape(len(maps), CLASSES, grid, grid).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_flips_are_of_the_map_and_the_box_together():
    maps, boxes = drawn(1)
    mirrored = boxes.copy()
    mirrored[:, [0, 2]] = 1 - boxes[:, [2, 0]]
    plain = ours(maps.flip(4), mirrored, np.zeros(len(maps), bool), 7)
    np.testing.assert_allclose(ours(maps, boxes, np.ones(len(maps), bool), 7), plain, atol=1e-5)


def test_the_pipeline_of_the_original_exchanges_x_and_y():
    """Its crop stores top, left, height and width, which `roi_align` takes for x, y, x, y."""
    import torch

    original = module("tlt/data/mixup.py")
    maps, boxes = drawn(2)
    left, top, right, bottom = boxes.T
    stored = torch.zeros(len(maps), 1, *maps.shape[2:])
    crop = np.stack([top, left, bottom - top, right - left], 1)
    stored[:, 0, 0, 0, :4] = torch.tensor(crop)
    given = torch.cat([maps.float(), stored], 1)
    theirs = original.get_labelmaps_with_coords(given, CLASSES, label_size=7, device="cpu")
    theirs = theirs[..., 2:].reshape(len(maps), CLASSES, 7, 7).numpy().transpose(0, 2, 3, 1)
    exchanged = np.stack([top, left, bottom, right], 1)
    found = ours(maps, exchanged, np.zeros(len(maps), bool), 7)
    np.testing.assert_allclose(found, theirs, atol=1e-5)
    assert abs(ours(maps, boxes, np.zeros(len(maps), bool), 7) - theirs).max() > 0.1


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_of_torchvision(aligned):
    import torch

    let_torchvision_import()
    from torchvision.ops import roi_align as theirs_of

    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 14, 11, 3)).astype(np.float32)
    # Inside the map: torchvision without its compiled operators repeats the edge outside of it.
    corners = np.sort(rng.uniform(0, 1, (2, 10, 2, 2)), -2) * (16 * 11, 16 * 14)
    boxes = corners.reshape(2, 10, 4).astype(np.float32)
    for bins in ((7, 7), (3, 2)):
        theirs = theirs_of(
            torch.tensor(features.transpose(0, 3, 1, 2)),
            [torch.tensor(each) for each in boxes],
            bins,
            spatial_scale=1 / 16,
            aligned=aligned,
        )
        found = roi_align(features, boxes, bins, scale=1 / 16, aligned=aligned)
        expected = theirs.numpy().transpose(0, 2, 3, 1).reshape(found.shape)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.original("timm")
def test_a_classifier_at_each_token(tmp_path):
    import torch

    make_importable("timm")
    import timm

    sizes = {"img_size": 48, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": CLASSES}
    base = timm.create_model("vit_tiny_patch16_224", **sizes).eval()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.normal_(0, 0.2)
    torch.save(base.state_dict(), tmp_path / "model.pth")
    section = {"file": str(tmp_path / "model.pth"), "dtype": "float32", "model": {"heads": 3}}
    described = describe_classifier(
        {**section, "model": {"encoder": "vit_ti16", "width": 48, "depth": 2, "heads": 3}}
    )
    target = PseudoLabel((1, 16, 16), **{**section, **described})
    clips = np.random.default_rng(0).normal(size=(2, 1, 48, 48, 3)).astype(np.float32)
    normalise = Normalise(target.mean, target.std)
    found = target(Inputs(clips, normalise, load(target)))
    head = module("generate_label.py", {"timm", "PIL"}).TokenLabelHead(base)
    with torch.no_grad():
        theirs = head(torch.tensor(clips[:, 0].transpose(0, 3, 1, 2))).softmax(-1)
    np.testing.assert_allclose(found[:, 0], theirs, atol=1e-5)
