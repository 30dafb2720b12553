"""The laws of our random choices against those of PySlowFast: two samples, one distribution."""

from __future__ import annotations

import random
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.stats import ks_2samp

from bench.originals import original
from maskfeat_jax.augment import Mix, random_erasing
from maskfeat_jax.masking import Block, Cube, Tube

pytestmark = pytest.mark.original


@pytest.fixture(autouse=True)
def _seeds():
    """The originals draw from the global generators."""
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


def assert_same_law(ours, theirs):
    """Kolmogorov-Smirnov on each column; with fixed seeds this cannot fail now and then."""
    ours, theirs = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (ours, theirs))
    for column in range(ours.shape[1]):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3, f"column {column}"


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.5, 1.0)])
def test_windows_of_random_resized_crops(area):
    crops = pytest.importorskip("input_pipeline.views.crops")
    draw = original("slowfast.datasets.transform").RandomResizedCropAndInterpolation.get_params
    image, rng, ratio = (
        types.SimpleNamespace(size=(500, 375)),
        np.random.default_rng(0),
        (0.75, 4 / 3),
    )
    theirs = [draw(image, area, ratio) for _ in range(3000)]
    ours = [crops.random_resized_crop(rng, 375, 500, area, ratio) for _ in range(3000)]
    assert_same_law(ours, theirs)


def boxes(changed):
    """Top, left, height and width of what changed in each image; `(n, h, w)` bool."""
    rows, columns = changed.any(2), changed.any(1)
    return np.stack([rows.argmax(1), columns.argmax(1), rows.sum(1), columns.sum(1)], 1)


def test_boxes_of_random_erasing():
    import torch

    n, size = 1500, (48, 64)
    erase = original("slowfast.datasets.random_erasing").RandomErasing(
        1.0, mode="pixel", device="cpu", cube=False
    )
    theirs = erase(torch.zeros(n, 3, *size)).numpy()
    ours = random_erasing(jax.random.key(0), jnp.zeros((n, 1, *size, 3)), 1.0)[:, 0]
    ours_changed, theirs_changed = (np.asarray(ours) != 0).any(-1), (theirs != 0).any(1)
    assert_same_law(boxes(ours_changed), boxes(theirs_changed))
    assert_same_law(
        np.asarray(ours)[ours_changed][:5000], theirs.transpose(0, 2, 3, 1)[theirs_changed][:5000]
    )


def test_shares_of_mixup_and_cutmix():
    import torch

    n = 1500
    mix = original("slowfast.datasets.mixup").MixUp(0.8, 1.0, 0.9, 0.5, True, 0.1, 2)
    labels = torch.tensor([0, 1])
    theirs = [mix(torch.rand(2, 3, 32, 48), labels)[1][0, 0].item() for _ in range(n)]
    ours = Mix(0.8, 1.0, 0.9, 0.5, group=2, smoothing=0.1)(
        jax.random.key(0), jnp.zeros((2 * n, 1, 32, 48, 3)), jnp.tile(jnp.arange(2), n), 2
    )[1][::2, 0]
    assert_same_law(ours, theirs)


def test_block_masks():
    draw = original("slowfast.datasets.transform").MaskingGenerator((14, 14), 78, 78 // 5)
    theirs = np.stack([draw() for _ in range(2000)]).astype(bool)
    ours = np.asarray(Block()(jax.random.key(0), 2000, (1, 14, 14)))[:, 0]
    assert_same_law(ours.sum((1, 2)), theirs.sum((1, 2)))
    assert_same_law(ours.sum(1).max(1), theirs.sum(1).max(1))
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.06)


def test_cube_masks():
    draw = original("slowfast.datasets.transform").MaskingGenerator3D(
        (8, 7, 7), 157, min_num_patches=9, max_num_patches=49
    )
    theirs = np.stack([draw() for _ in range(3000)]).astype(bool)
    ours = np.asarray(Cube(0.4)(jax.random.key(0), 3000, (8, 7, 7)))
    assert_same_law(ours.sum((1, 2, 3)), theirs.sum((1, 2, 3)))
    assert_same_law(ours.sum((2, 3)), theirs.sum((2, 3)))  # of each frame
    assert_same_law(ours.sum((1, 3)).max(1), theirs.sum((1, 3)).max(1))
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.05)


def test_tube_masks():
    draw = original("slowfast.datasets.transform").MaskingGenerator((7, 7), 20, min_num_patches=4)
    theirs = np.stack([draw() for _ in range(3000)]).astype(bool)
    ours = np.asarray(Tube(0.4, window=(7, 7))(jax.random.key(0), 3000, (2, 14, 14)))[
        :, 0, ::2, ::2
    ]
    assert_same_law(ours.sum((1, 2)), theirs.sum((1, 2)))
    assert_same_law(ours.sum(1).max(1), theirs.sum(1).max(1))
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.05)


def test_change_made_by_rand_augment(monkeypatch):
    strict = ImageOps.posterize

    def posterize(image, bits):  # Pillow has come to refuse 0 bits, which the original draws
        return strict(image, bits) if bits else Image.new("RGB", image.size)

    monkeypatch.setattr(ImageOps, "posterize", posterize)
    augment = pytest.importorskip("input_pipeline.views.randaugment")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
    settings = {"translate_const": 100, "img_mean": (124, 116, 104), "interpolation": Image.BICUBIC}
    theirs = original("slowfast.datasets.rand_augment").rand_augment_transform(
        "rand-m9-mstd0.5-inc1", settings
    )
    ours, rng = augment.RandAugment.parse("rand-m9-mstd0.5-inc1"), np.random.default_rng(0)

    def change(other):
        return np.abs(np.asarray(other, float) - np.asarray(image, float)).mean()

    assert_same_law(
        [change(ours([image], rng)[0]) for _ in range(1500)],
        [change(theirs(image)) for _ in range(1500)],
    )
