"""HOG against the layers of PySlowFast and OpenMMLab."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bench.originals import original, stand_ins
from maskfeat_jax.ops.hog import hog
from maskfeat_jax.targets import Hog, Inputs

pytestmark = pytest.mark.original


def images(seed, size=(96, 160)):
    return np.random.default_rng(seed).standard_normal((3, *size, 3), np.float32)


def torch_run(layer, clips):
    import torch

    return layer(torch.tensor(clips.transpose(0, 3, 1, 2))).numpy()


def assert_same_cells(ours, theirs):
    """Equal but for pixels that rounding moves across the border of a bin."""
    wrong = (np.abs(ours - theirs) > 1e-4).any(-1).mean()
    assert wrong < 1e-4, f"{wrong:.2e} of the cells differ"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("window", [0, 16])
def test_hog_layer_of_pyslowfast(seed, window):
    clips = images(seed, (96, 160) if not window else (112, 112))  # its windows are for squares
    layer = original("slowfast.models.operators").HOGLayerC(9, 8, window)
    theirs = torch_run(layer, clips).transpose(0, 3, 4, 1, 2)
    ours = np.asarray(jax.jit(lambda x: hog(x, window=window))(clips))
    assert_same_cells(ours, theirs)
    np.testing.assert_allclose(np.median(np.abs(ours - theirs)), 0, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_hog_generator_of_openmmlab(seed):
    clips = images(seed, (224, 224))
    theirs = torch_run(openmmlab().HOGGenerator(), clips)
    ours = np.asarray(Hog((1, 16, 16), window=16)(Inputs(clips[:, None]))).reshape(theirs.shape)
    assert_same_cells(ours.reshape(*theirs.shape[:2], -1, 4), theirs.reshape(3, 196, -1, 4))


def openmmlab():
    """The module of mmpretrain that holds its HOG, without the rest of that package."""
    import torch

    file = Path(os.environ.get("MMPRETRAIN_DIR", "")) / "mmpretrain/models/selfsup/maskfeat.py"
    if "MMPRETRAIN_DIR" not in os.environ or not file.exists():
        pytest.skip("needs MMPRETRAIN_DIR, a checkout of mmpretrain")
    spec = importlib.util.spec_from_file_location("mmpretrain.models.selfsup.maskfeat", file)
    module = importlib.util.module_from_spec(spec)
    names = {"cv2", "mmengine", "mmpretrain"}
    with stand_ins(names, mmengine__model={"BaseModule": torch.nn.Module}):
        spec.loader.exec_module(module)
    assert "mmpretrain" not in sys.modules
    return module
