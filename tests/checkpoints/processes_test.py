"""Checkpoints in processes of their own: devices, hosts, kills, full disks."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from typing import Any

import jax.numpy as jnp
import pytest

from bench.faults.disk import COMPILER, MISSING, Disk
from maskfeat_jax.checkpoints.checkpointer import Checkpoints
from tests.recipes import ROOT


def start(code: str, *arguments: Any, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


DEVICES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from maskfeat_jax.checkpoints.checkpointer import Checkpoints

def state_on(devices):
    mesh = jax.make_mesh((len(devices),), ("data",), (jax.sharding.AxisType.Auto,), devices=devices)
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(16, 3)).astype(np.float32), "b": np.float32(0.1)}
    return {
        "w": jax.device_put(values["w"], NamedSharding(mesh, P("data"))),
        "b": jax.device_put(values["b"], NamedSharding(mesh, P())),
        "key": jax.device_put(jax.random.key(5), NamedSharding(mesh, P())),
    }

def like(state):
    def abstract(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return jax.tree.map(abstract, state)

checkpoints = Checkpoints(sys.argv[1])
devices = jax.devices()
assert len(devices) == 8
checkpoints.save(0, state_on(devices), {})
for step, count in enumerate([1, 4, 8]):
    wanted = state_on(devices[:count])
    restored, _ = checkpoints.restore(step, like(wanted))
    for name in wanted:
        assert restored[name].sharding.is_equivalent_to(wanted[name].sharding, wanted[name].ndim)
        assert len(restored[name].addressable_shards) == count
    assert np.asarray(restored["w"]).tobytes() == np.asarray(wanted["w"]).tobytes()
    assert jnp.array_equal(jax.random.key_data(restored["key"]), jax.random.key_data(wanted["key"]))
    checkpoints.save(step + 1, restored, {})
checkpoints.finish()
print("devices agree")
"""


def test_eight_devices_to_one_to_four_and_back(tmp_path):
    process = start(DEVICES, tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert "devices agree" in process.communicate(timeout=120)[0]
    assert process.returncode == 0


SAVE_FOR_EVER = """
import itertools, sys
import jax.numpy as jnp
from maskfeat_jax.checkpoints.checkpointer import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep_last=2)
latest = checkpoints.latest_good()
for step in itertools.count(0 if latest is None else latest + 1):
    checkpoints.save(step, {"a": jnp.full((300, 100), step), "b": jnp.full(1000, step)}, {})
    print(step - 1, flush=True)  # the one before is settled
"""


def test_kill_in_the_middle_of_saving_leaves_a_loadable_state(tmp_path):
    rng = random.Random(0)
    for _ in range(2):
        process = start(SAVE_FOR_EVER, tmp_path)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()  # now one is settled
        time.sleep(rng.uniform(0.05, 0.6))
        process.send_signal(signal.SIGKILL)
        printed = process.communicate()[0].split()
        checkpoints = Checkpoints(tmp_path)
        latest = checkpoints.latest_good()
        assert latest is not None
        assert latest >= int(printed[-1] if printed else 0)
        assert not (tmp_path / "bad").exists()
        like = {"a": jnp.zeros((300, 100), jnp.int32), "b": jnp.zeros(1000, jnp.int32)}
        restored, _ = checkpoints.restore(latest, like)
        assert (restored["a"] == latest).all()
        assert (restored["b"] == latest).all()


PROCESSES = """
import os, pathlib, sys, time
import jax, jax.numpy as jnp, numpy as np
directory, address, mine, count, rules = sys.argv[1:]
mine, count = int(mine), int(count)
jax.distributed.initialize(address, count, mine)
from jax.sharding import NamedSharding, PartitionSpec as P
from maskfeat_jax.checkpoints.checkpointer import Checkpoints, CheckpointError
mesh = jax.make_mesh((count,), ("data",), (jax.sharding.AxisType.Auto,))
sharding = NamedSharding(mesh, P("data"))
values = np.random.default_rng(0).normal(size=(2 * count, 10_000)).astype(np.float32)
spoil = jax.jit(lambda array: array * 0 - 1, donate_argnums=0)
checkpoints = Checkpoints(directory, keep_last=1, pause_s=0.1)
assert checkpoints.latest_good() is None

def save(step):
    array = jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
    checkpoints.save(step, {"w": array}, {"n": step})
    spoil(array).block_until_ready()  # given away while it is written

save(1)
save(2)
assert checkpoints.latest_good() == 2
for step, where in ((3, 1), (4, 0)):  # arrays of process 1, the manifest by process 0
    if mine == where:
        os.replace(pathlib.Path(rules + str(where)), os.environ["MASKFEAT_DISK"])
    begun = time.perf_counter()
    save(step)
    try:
        checkpoints.finish()
        print("no error")
    except CheckpointError as error:
        print("refused", step, error, f"[{time.perf_counter() - begun < 30}]")
    if mine == where:
        os.remove(os.environ["MASKFEAT_DISK"])
    assert checkpoints.latest_good() == 2
save(5)
assert checkpoints.latest_good() == 5
like = {"w": jax.ShapeDtypeStruct(values.shape, jnp.float32, sharding=sharding)}
restored, facts = checkpoints.restore(5, like)
for shard in restored["w"].addressable_shards:
    assert np.array_equal(np.asarray(shard.data), values[shard.index]), shard
assert facts == {"n": 5}
try:
    checkpoints.restore(3, like)
except RuntimeError as error:
    print("refused", type(error).__name__)
print("process", mine, "of", count, checkpoints.steps(), flush=True)
os._exit(0)  # JAX would wait five minutes for the save that failed
"""


@pytest.mark.skipif(COMPILER is None, reason=MISSING)
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_save_and_restore_one_state_and_fail_together(tmp_path, count):
    folders = [tmp_path / str(i) for i in range(2)]
    for i, match in enumerate(("manifest.json", "ocdbt.process_1/d/")):
        folders[i].mkdir()
        disk = Disk(folders[i])
        disk.fail(tmp_path / "checkpoints", ops="write", errno=errno.ENOSPC, match=match)
        (folders[i] / "disk.rules").rename(tmp_path / f"rules{i}")
    address = f"localhost:{20_000 + os.getpid() % 20_000}"
    processes = [
        start(
            PROCESSES,
            tmp_path / "checkpoints",
            address,
            i,
            count,
            tmp_path / "rules",
            LD_PRELOAD=str(folders[0] / "disk.so"),
            MASKFEAT_DISK=str(tmp_path / f"{i}.rules"),
        )
        for i in range(count)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    for i, output in enumerate(outputs):
        assert f"process {i} of {count} [5]" in output
        assert "no error" not in output
        assert output.count("[True]") == 2
        for step, where in ((3, 1), (4, 0)):
            cause = "No space left on device" if i == where else f"process {where} failed"
            assert re.search(f"refused {step} step {step} could not be saved in .*{cause}", output)
    assert "refused CheckpointError" in outputs[0]
    assert "refused FirstProcessFailed" in outputs[1]
