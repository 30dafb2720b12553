"""Eight devices equal one. Runs in a process of its own: devices are counted at start."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from maskfeat_jax import sharding
from tests.recipes import ROOT

SCRIPT = """
import functools, json, sys
sys.path.insert(0, {root!r})
import jax, numpy as np
from maskfeat_jax import sharding, steps
from maskfeat_jax.state import TrainState
from tests import steps_test

groups = {groups}
mesh = sharding.create_mesh(groups)
assert mesh.shape["data"] * groups == jax.device_count() == {devices}
out = {{}}
for step, make in steps_test.STEPS:
    state, parts = make()
    places = sharding.state_sharding(mesh, jax.eval_shape(lambda: state))
    state = jax.device_put(state, places)
    kernel = state.params["encoder"]["blocks"]["0"]["mlp"]["fc1"]["kernel"]
    assert kernel.addressable_data(0).size == kernel.size // groups
    run = jax.jit(functools.partial(step, **parts),
                  in_shardings=(places, sharding.batch_sharding(mesh)),
                  out_shardings=(places, sharding.replicated(mesh)), donate_argnums=0)
    losses = []
    for i in range(4):
        batch = sharding.to_device(mesh, steps_test.batch(b=16, seed=i))
        state, metrics = run(state, batch)
        losses.append(float(metrics["loss"]))
    norms = [float(np.abs(np.asarray(leaf)).sum()) for leaf in jax.tree.leaves(state.params)]
    out[make.__name__] = [losses, norms]
print("RESULT " + json.dumps(out))
"""


NEIGHBOURS = """
import json, re, sys
sys.path.insert(0, {root!r})
import jax, numpy as np
from maskfeat_jax import sharding
from maskfeat_jax.ops.neighbours import nearest, unit

rng = np.random.default_rng(0)
bank = np.asarray(unit(rng.standard_normal((4, 500, 16)).astype(np.float32)))
labels = rng.integers(0, 5, (4, 500)).astype(np.int32)
queries = np.asarray(unit(rng.standard_normal((64, 16)).astype(np.float32)))
mesh = sharding.create_mesh()
rows = sharding.batch_sharding(mesh)
run = jax.jit(lambda *x: nearest(*x, 20), in_shardings=(rows,) * 3,
              out_shardings=sharding.replicated(mesh)).lower(queries, bank, labels).compile()
moved = [shape.split(",") for shape in re.findall(r"= \\w+\\[([\\d,]+)\\]\\S* all-", run.as_text())]
found = np.asarray(run(queries, bank, labels)[1])
order = np.argsort(-(queries @ bank.reshape(-1, 16).T), 1)[:, :20]
print("RESULT " + json.dumps({{"right": bool((found == labels.ravel()[order]).all()),
                               "moved": max(int(np.prod(list(map(int, m)))) for m in moved)}}))
"""


def run(devices: int, groups: int, script: str = SCRIPT) -> dict:
    script = script.format(root=str(ROOT), devices=devices, groups=groups)
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT ")[1])


@pytest.mark.slow
def test_eight_devices_equal_one():
    one = run(1, 1)
    for groups in (1, 4):  # data parallel; parameters shared by four
        eight = run(8, groups)
        for name, (losses, norms) in one.items():
            np.testing.assert_allclose(eight[name][0], losses, rtol=1e-5, err_msg=name)
            np.testing.assert_allclose(eight[name][1], norms, rtol=1e-4, err_msg=name)


def test_neighbours_are_sought_where_they_lie():
    result = run(4, 1, NEIGHBOURS)
    assert result["right"]
    assert result["moved"] <= 64 * 20 * 4  # the best of each part, not 64 x 2000 cosines


def test_ids_travel_whole():
    mesh = sharding.create_mesh()
    index = np.array([3, 2**40 + 5, -1], np.int64)
    halves = np.asarray(sharding.to_device(mesh, {"index": index})["index"])
    assert halves.dtype == np.int32
    np.testing.assert_array_equal(halves.view(np.int64)[:, 0], index)


def test_prefetch_keeps_order_and_loses_nothing():
    placed = []

    def place(x):
        placed.append(x)
        return -x

    stream = sharding.prefetch(iter(range(5)), place)
    assert next(stream) == 0
    assert placed == [0, 1, 2]
    assert list(stream) == [-1, -2, -3, -4]


def test_create_mesh_refuses():
    with pytest.raises(ValueError, match=r"1 devices cannot be split into groups of 3"):
        sharding.create_mesh(3)
    assert sharding.create_mesh().axis_names == sharding.AXES
    assert jax.device_count() == 1
