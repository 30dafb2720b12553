"""What is measured, in our code. Each case gives a function that runs once, and facts about it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bench.flops import peak_flops, training_flops
from maskfeat_jax.augment import Augment, Normalise
from maskfeat_jax.masking import Block, Cube, Masker
from maskfeat_jax.models import create_model
from maskfeat_jax.ops.hog import hog
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.optim import AdamW
from maskfeat_jax.state import TrainState
from maskfeat_jax.targets import Hog
from maskfeat_jax.tasks import Pretrain

Once = Callable[[], Any]
Facts = dict[str, Any]

SIZE = 224  # pixels
IMAGE, IMAGE_PATCH = (1, SIZE, SIZE), (1, 16, 16)  # frames, rows, columns
CLIP, CLIP_PATCH = (16, SIZE, SIZE), (2, 16, 16)
CUBE = Cube(window=(8, 7, 7))


def hog_case(batch: int, dtype: str) -> tuple[Once, Facts]:
    """HOG of a batch of images."""
    images = np.random.default_rng(0).standard_normal((batch, SIZE, SIZE, 3)).astype(dtype)
    run = functools.partial(jax.jit(hog), jax.device_put(images))
    return run, _facts()


def maskfeat_case(
    encoder: str, clip: Size3, tubelet: Size3, masker: Masker, batch: int, dtype: str
) -> tuple[Once, Facts]:
    """A whole step of MaskFeat pre-training, from bytes to the new parameters."""
    target = Hog(tubelet)
    model = create_model(
        "maskfeat",
        encoder=encoder,
        head={"dim": target.dim},
        tubelet=tubelet,
        dtype=dtype,
    )
    task = Pretrain(model, Normalise(), Augment(), masker, target, clip, seed=0)
    params = jax.jit(task.init)(jax.random.key(0))
    rule = AdamW(lr=2e-4, clip_norm=0.02)
    optimizer = rule.optimizer(params, steps_per_epoch=100, epochs=10, batch_size=batch)
    state = jax.jit(functools.partial(TrainState.create, optimizer=optimizer))(params)
    video = np.random.default_rng(0).integers(0, 256, (batch, *clip, 3), np.uint8)
    inputs = jax.device_put({"video": video, "valid": np.ones(batch, bool)})
    train_step = functools.partial(task.train_step, optimizer=optimizer, accumulate=1)
    start = time.perf_counter()
    step = jax.jit(train_step, donate_argnums=0).lower(state, inputs).compile()
    compile_s = round(time.perf_counter() - start, 1)

    def once() -> Any:
        nonlocal state
        state, metrics = step(state, inputs)
        return metrics

    flops = batch * training_flops(model.encoder, clip, target.dim)
    scratch = step.memory_analysis()
    facts = {
        "compile_s": compile_s,
        "flops": flops,
        "peak_flops": peak_flops(jax.devices()[0].device_kind),
    }
    if scratch is not None:
        facts["scratch_mib"] = round(scratch.temp_size_in_bytes / 2**20)
    return once, _facts() | facts


def _facts() -> Facts:
    return {"framework": f"jax {jax.__version__}", "device": jax.devices()[0].device_kind}


CASES: dict[str, Callable[[int, str], tuple[Once, Facts]]] = {
    "hog": hog_case,
    "vit_b": functools.partial(maskfeat_case, "vit_b16", IMAGE, IMAGE_PATCH, Block()),
    "vit_l": functools.partial(maskfeat_case, "vit_l16", IMAGE, IMAGE_PATCH, Block()),
    "mvit_s": functools.partial(maskfeat_case, "mvit_v2_s", CLIP, CLIP_PATCH, CUBE),
    "mvit_l": functools.partial(maskfeat_case, "mvit_v2_l", CLIP, CLIP_PATCH, CUBE),
}
