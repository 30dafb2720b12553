"""Learning rates against PySlowFast's, from its own recipes."""

from __future__ import annotations

import numpy as np
import pytest

from bench.originals import original, recipe
from maskfeat_jax.optim import warmup_cosine

pytestmark = pytest.mark.original


@pytest.mark.parametrize(
    "file",
    [
        "in1k_VIT_B_MaskFeat_PT",
        "in1k_VIT_B_MaskFeat_FT",
        "in1k_VIT_L_MaskFeat_FT",
        "k400_MVITv2_S_16x4_MaskFeat_PT",
        "k400_MVITv2_S_16x4_FT",
        "k400_MVITv2_L_16x4_FT",
    ],
)
def test_learning_rate_of_a_recipe(file):
    settings = recipe(f"masked_ssl/{file}.yaml")
    solver, steps_per_epoch = settings.SOLVER, 100
    ours = warmup_cosine(
        solver.BASE_LR,
        solver.WARMUP_START_LR,
        solver.COSINE_END_LR,
        warmup_steps=solver.WARMUP_EPOCHS * steps_per_epoch,
        total_steps=solver.MAX_EPOCH * steps_per_epoch,
    )
    lr_at = original("slowfast.utils.lr_policy").get_lr_at_epoch
    total = int(solver.MAX_EPOCH * steps_per_epoch)
    steps = sorted({0, 3, *np.linspace(0, total - 1, 41).astype(int).tolist()})
    theirs = [lr_at(settings, step / steps_per_epoch) for step in steps]
    np.testing.assert_allclose([ours(step) for step in steps], theirs, rtol=2e-5, atol=1e-9)
