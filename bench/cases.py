"""The benchmark cases in our code: each returns a function that runs once, and facts about it."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from maskfeat_jax.augment import Normalise
from maskfeat_jax.flops import peak_flops, training_flops
from maskfeat_jax.masking import Block, Cube, Masker, Random
from maskfeat_jax.models import create_model
from maskfeat_jax.ops.hog import hog
from maskfeat_jax.ops.patches import Size3, token_grid
from maskfeat_jax.optim import AdamW, Rule
from maskfeat_jax.state import TrainState
from maskfeat_jax.targets import Hog, Pixels, Target
from maskfeat_jax.tasks import Pretrain

Once = Callable[[], Any]
Facts = dict[str, Any]

SIZE = 224  # pixels
IMAGE, IMAGE_PATCH = (1, SIZE, SIZE), (1, 16, 16)  # frames, rows, columns
CLIP, CLIP_PATCH = (16, SIZE, SIZE), (2, 16, 16)
CUBE = Cube(window=(8, 7, 7))
MASKFEAT_RULE = AdamW(lr=2e-4, clip_norm=0.02)
MAE_RULE = AdamW(lr=2e-4, b2=0.95, clip_norm=0.02)


def hog_case(batch: int, dtype: str) -> tuple[Once, Facts]:
    """HOG of a batch of images."""
    images = np.random.default_rng(0).standard_normal((batch, SIZE, SIZE, 3)).astype(dtype)
    run = functools.partial(jax.jit(hog), jax.device_put(images))
    return run, _facts()


def maskfeat_case(
    encoder: str, clip: Size3, tubelet: Size3, masker: Masker, batch: int, dtype: str
) -> tuple[Once, Facts]:
    """A whole step of MaskFeat pre-training, from uint8 input to updated parameters."""
    task = maskfeat_task(encoder, clip, tubelet, masker, dtype)
    return pretraining([task], MASKFEAT_RULE, batch)[0]


def maskfeat_task(
    encoder: str, clip: Size3, tubelet: Size3, masker: Masker, dtype: str = "float32"
) -> Pretrain:
    """The pre-training task of MaskFeat."""
    target = Hog(tubelet)
    head = {"dim": target.dim}
    model = create_model("maskfeat", encoder=encoder, head=head, tubelet=tubelet, dtype=dtype)
    return task_of(model, clip, masker, target)


def mae_case(encoder: str, batch: int, dtype: str) -> tuple[Once, Facts]:
    """A whole step of a masked autoencoder with a mask ratio of 90 %."""
    return pretraining([mae_task(encoder, CLIP, 0.9, dtype)], MAE_RULE, batch)[0]


def mae_task(encoder: str, clip: Size3, ratio: float, dtype: str) -> Pretrain:
    """A masked autoencoder as in mae_st; ratio 0 masks one token, as the loss needs one."""
    grid = token_grid(clip, CLIP_PATCH)
    tokens = math.prod(grid)
    masker = Random(ratio or 0.5 / tokens)
    target = Pixels(CLIP_PATCH, channels="last", frames="spread")
    model = create_model(
        "mae",
        encoder=encoder,
        head={
            "dim": target.dim,
            "visible": tokens - masker.masked(grid),
            "heads": 16,
            "positions": "separate",
            "class_token": "own",
        },
        tubelet=CLIP_PATCH,
        positions="separate",
        dtype=dtype,
    )
    return task_of(model, clip, masker, target)


def task_of(model: nn.Module, clip: Size3, masker: Masker, target: Target) -> Pretrain:
    """Pre-training without augmentation."""
    return Pretrain(
        model=model, normalise=Normalise(), clip=clip, seed=0, masker=masker, target=target
    )


def start(task: Pretrain, rule: Rule, batch: int) -> tuple[Any, TrainState, dict[str, jax.Array]]:
    """Optimiser, initial state and a batch."""
    params = jax.jit(task.init)(jax.random.key(0))
    optimizer = rule.optimizer(params, steps_per_epoch=100, epochs=10, batch_size=batch)
    state = jax.jit(functools.partial(TrainState.create, optimizer=optimizer))(params)
    video = np.random.default_rng(0).integers(0, 256, (batch, *task.clip, 3), np.uint8)
    inputs = {"video": video, "valid": np.ones(batch, bool)}
    return optimizer, state, jax.device_put({**inputs, "index": np.arange(batch, dtype=np.int32)})


def pretraining(tasks: Sequence[Pretrain], rule: Rule, batch: int) -> list[tuple[Once, Facts]]:
    """Compiled steps of tasks that share one set of parameters, which each step updates."""
    optimizer, state, inputs = start(tasks[0], rule, batch)

    def once(step: jax.stages.Compiled) -> Any:
        nonlocal state
        state, metrics = step(state, inputs)
        return metrics

    cases = []
    for task in tasks:
        train_step = functools.partial(task.train_step, optimizer=optimizer, accumulate=1)
        begun = time.perf_counter()
        step = jax.jit(train_step, donate_argnums=0).lower(state, inputs).compile()
        facts = {
            "compile_s": round(time.perf_counter() - begun, 1),
            "flops": batch * training_flops(task.model, task.clip),
            "peak_flops": peak_flops(jax.devices()[0].device_kind),
        }
        scratch = step.memory_analysis()
        if scratch is not None:
            facts["scratch_mib"] = round(scratch.temp_size_in_bytes / 2**20)
        cases.append((functools.partial(once, step), _facts() | facts))
    return cases


def product_case(dtype: str, side: int = 1024, count: int = 64) -> tuple[Once, Facts]:
    """Products of square matrices, one after the other, that fit into the cache of a CPU."""
    product, mean = jax.jit(jnp.matmul), jnp.full((side, side), 1 / side, dtype)

    def once() -> Any:
        matrix = mean
        for _ in range(count):
            matrix = product(matrix, mean)
        return matrix

    return once, _facts() | {"flops": count * 2 * side**3}


def _facts() -> Facts:
    return {"framework": f"jax {jax.__version__}", "device": jax.devices()[0].device_kind}


CASES: dict[str, Callable[[int, str], tuple[Once, Facts]]] = {
    "hog": hog_case,
    "vit_b": functools.partial(maskfeat_case, "vit_b16", IMAGE, IMAGE_PATCH, Block()),
    "vit_l": functools.partial(maskfeat_case, "vit_l16", IMAGE, IMAGE_PATCH, Block()),
    "mvit_s": functools.partial(maskfeat_case, "mvit_v2_s", CLIP, CLIP_PATCH, CUBE),
    "mvit_l": functools.partial(maskfeat_case, "mvit_v2_l", CLIP, CLIP_PATCH, CUBE),
    "mae_b": functools.partial(mae_case, "vit_b16"),
    "mae_l": functools.partial(mae_case, "vit_l16"),
}
