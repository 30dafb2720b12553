from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from maskfeat_jax import sharding
from maskfeat_jax.augment import Mix, Normalise
from maskfeat_jax.commands.estimate import compile_step, estimate, largest_that_fits
from maskfeat_jax.masking import Random
from maskfeat_jax.models import create_model
from maskfeat_jax.optim import AdamW
from maskfeat_jax.sections import RecipeError
from maskfeat_jax.targets import Pixels
from maskfeat_jax.tasks import Finetune, Pretrain
from maskfeat_jax.training.build import Computation
from tests.recipes import ROOT


def autoencoder(**fields):
    """Task and optimiser of a small masked autoencoder."""
    target = Pixels((1, 8, 8), channels="last")
    sizes = {"tubelet": (1, 8, 8), "positions": "sincos", **fields}
    head = {"dim": target.dim, "visible": 4, "width": 64, "depth": 1, "heads": 2}
    model = create_model("mae", encoder="vit_ti16", head=head, **sizes)
    task = Pretrain(
        model=model,
        normalise=Normalise(),
        clip=(1, 32, 32),
        seed=0,
        masker=Random(0.75),
        target=target,
    )
    return task, optimizer_of(task)


def optimizer_of(task):
    params = jax.eval_shape(task.init, jax.random.key(0))
    length = {"steps_per_epoch": 10, "epochs": 10, "batch_size": 8}
    return AdamW(lr=1e-3, ema_decay=0.9).optimizer(params, **length, frozen=task.model.frozen)


def computation(task, optimizer, rows, mesh=None, accumulate=1, views=1):
    return Computation(mesh or sharding.create_mesh(), rows, accumulate, task, optimizer, views)


def test_bytes_are_those_of_a_real_state():
    task, optimizer = autoencoder(depth=1)
    found = estimate(computation(task, optimizer, 4))
    params = jax.jit(task.init)(jax.random.key(0))
    assert found.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found.parameters - found.trainable == params["encoder"]["pos_embed"].size
    assert found.parameter_bytes == found.average_bytes == 4 * found.parameters
    state = jax.tree.leaves(optimizer.tx.init(params))
    assert found.optimizer_bytes == sum(leaf.nbytes for leaf in state)
    assert found.batch_bytes == 4 * (32 * 32 * 3 + 4 + 1 + 8 + 4)
    assert found.temporary_bytes > 4 * found.trainable  # the gradients, at least
    assert found.flops_per_step == 4 * found.flops_per_clip > 0
    assert found.largest_batch is None
    text = found.table()
    assert f"{found.parameters:,}, trainable {found.trainable:,}" in text
    assert f"  peak            {found.peak_bytes / 2**20:12,.1f} MiB" in text
    assert "largest" not in text


def test_the_largest_batch_fits_and_is_a_batch_of_the_task():
    model = create_model(
        "classifier", encoder="vit_ti16", head={"num_classes": 9}, depth=1, tubelet=(1, 8, 8)
    )
    mixed = Mix(probability=1.0, group=4)
    task = Finetune(model=model, normalise=Normalise(), clip=(1, 32, 32), seed=0, mix=mixed)
    optimizer = optimizer_of(task)
    base = estimate(computation(task, optimizer, 8))
    memory = estimate(computation(task, optimizer, 40)).peak_bytes + 100
    found = estimate(computation(task, optimizer, 8), memory_bytes=memory)
    assert found.largest_batch == 40
    assert "largest batch     40 clips, 40 per device" in found.table()
    known = {"memory_bytes": None, "largest_batch": None, "compile_seconds": base.compile_seconds}
    assert dataclasses.replace(found, **known) == base
    none = dataclasses.replace(found, largest_batch=0)
    assert "not even one clip per device fits" in none.table()


def test_largest_interpolates_and_returns_only_what_it_tried():
    tried = []

    def line(n):
        tried.append(n)
        return 100 + 10 * n

    assert largest_that_fits(line, 8, 1105) == 100
    assert len(tried) <= 4
    assert largest_that_fits(line, 8, 119) == 1
    assert largest_that_fits(line, 1, 109) == 0

    def steps(n):  # grows faster from somewhere on
        return line(n) + (5000 if n > 50 else 0)

    for memory in (399, 1105, 6115):
        best = largest_that_fits(steps, 8, memory)
        assert steps(best) <= memory
        assert best > 0


def test_refuses_a_batch_that_cannot_be_split():
    task, optimizer = autoencoder(depth=1)
    message = r"run.batch_size=9 is not a multiple of 2: .* x 2 slices .*; the next are 8, 10"
    with pytest.raises(RecipeError, match=message):
        estimate(computation(task, optimizer, 9, accumulate=2))


DEVICES = """
import sys
sys.path.insert(0, {root!r})
import jax, math
from maskfeat_jax import sharding
from maskfeat_jax.commands.estimate import estimate
from tests.commands.estimate_test import autoencoder, computation
task, optimizer = autoencoder(scan=True, width=1280, depth=32, heads=16)  # ViT-H
one = sharding.mesh_of(jax.devices()[:1])
for mesh in (one, sharding.create_mesh(8), sharding.create_mesh(2, 2)):
    found = estimate(computation(task, optimizer, 8, mesh))
    state = found.parameter_bytes + found.optimizer_bytes + found.average_bytes
    print("RESULT", state, found.temporary_bytes, found.peak_bytes)
from bench.faults.isolation import peak_megabytes
print("RESULT", round(peak_megabytes() * 2**20))
"""


@pytest.mark.slow
def test_a_network_fits_where_one_device_would_not():
    """ViT-H: 630 million parameters, which are never made."""
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", DEVICES.format(root=str(ROOT))],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RESULT")]
    (one, shared, mixed), ((resident,),) = np.array(lines[:3], int), np.array(lines[3:], int)
    assert one[0] > 630e6 * 16
    np.testing.assert_allclose(one[0] / shared[0], 8, rtol=0.01)
    np.testing.assert_allclose(one[0] / mixed[0], 4, rtol=0.01)
    assert one[2] / shared[2] > 4  # gathered parameters come and go
    assert one[2] / mixed[2] > 2.5
    assert resident < 2e9


def test_evaluation_has_no_optimiser():
    task, optimizer = autoencoder(depth=1)
    trained = estimate(computation(task, optimizer, 8))
    found = estimate(computation(task, None, 8))
    assert found.parameter_bytes == trained.parameter_bytes
    assert (found.optimizer_bytes, found.average_bytes, found.trainable) == (0, 0, 0)
    assert found.temporary_bytes < trained.temporary_bytes
    assert 2 * found.flops < trained.flops
    assert "per clip" not in found.table()


def test_json_has_every_figure():
    found = estimate(computation(*autoencoder(depth=1), 4), memory_bytes=10**12)
    values = json.loads(found.json())
    assert values["peak_bytes"] == found.peak_bytes
    assert 0.9 < values["flops"] / found.flops_per_step < 1.5  # and what is no matrix product
    assert values["collectives"] == {}
    assert values["bytes_accessed"] > 2 * found.parameter_bytes


def test_a_batch_that_does_not_fit_gets_one_that_does():
    made = computation(*autoencoder(depth=1), 64)
    memory = estimate(made._replace(rows=16)).peak_bytes
    found = estimate(made, memory_bytes=memory)
    assert found.largest_batch == 16
    assert "this batch does not fit" in found.table()


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (44.95G) exceeds available HBM (15.75G).",
            44.95,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 22.20G of 15.75G hbm. "
            "Exceeded hbm capacity by 6.45G.",
            21.2,  # less the arguments
        ),
    ],
)
def test_a_refusal_of_the_compiler_is_a_size(message, gib):
    class Lowered:
        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError(message)

    class Step:
        def lower(self, state, batch):
            return Lowered()

    whole = sharding.replicated(sharding.create_mesh())
    batch = {"video": jax.ShapeDtypeStruct((2**30,), np.uint8, sharding=whole)}
    found = compile_step(Step(), (), batch, {})
    assert found.temporary_bytes == pytest.approx(gib * 2**30, abs=1)
