"""Checkpoints in processes of their own: devices, hosts, kills, full disks."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from maskfeat_jax.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[1]


def start(code: str, *arguments: Any, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


def run(code: str, *arguments: Any, **environment: str) -> str:
    process = start(code, *arguments, **environment)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    return output


def test_a_full_disk_is_reported_and_older_steps_stay(tmp_path):
    """The size of a file is limited to 20 kB in a process of its own."""
    code = """
import resource, signal, sys
import jax.numpy as jnp, jax
from maskfeat_jax import checkpoint
from maskfeat_jax.checkpoint import Checkpoints, CheckpointError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(sys.argv[1], pause_s=0.1)
checkpoints.save(1, {"w": jax.random.normal(jax.random.key(0), (10,))}, {})
checkpoints.finish()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoints.save(2, {"w": jax.random.normal(jax.random.key(0), (100_000,))}, {})
    checkpoints.finish()
except CheckpointError as error:
    print("refused:", error)
print("latest", checkpoints.latest_good(), checkpoints.steps())
checkpoints.save(3, {"w": jax.random.normal(jax.random.key(0), (10,))}, {})
checkpoints.finish()
print("latest", checkpoints.latest_good(), checkpoints.steps())
"""
    output = run(code, tmp_path / "checkpoints")
    assert "refused: step 2 could not be saved" in output
    assert "latest 1 [1]" in output
    assert "latest 3 [1, 3]" in output


DEVICES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from maskfeat_jax import checkpoint
from maskfeat_jax.checkpoint import Checkpoints

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
    flags = "--xla_force_host_platform_device_count=8"
    assert "devices agree" in run(DEVICES, tmp_path, XLA_FLAGS=flags)


SAVE_FOR_EVER = """
import itertools, sys
import jax.numpy as jnp
from maskfeat_jax import checkpoint
from maskfeat_jax.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep_last=2)
latest = checkpoints.latest_good()
for step in itertools.count(0 if latest is None else latest + 1):
    checkpoints.save(step, {"a": jnp.full((300, 100), step), "b": jnp.full(1000, step)}, {})
    print(step - 1, flush=True)  # the one before is settled
"""


def test_kill_in_the_middle_of_saving_leaves_a_loadable_state(tmp_path):
    rng = random.Random(0)
    for _ in range(3):
        process = start(SAVE_FOR_EVER, tmp_path)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.05, 0.6))
        process.send_signal(signal.SIGKILL)
        printed = process.communicate()[0].split()
        checkpoints = Checkpoints(tmp_path)
        latest = checkpoints.latest_good()
        assert latest is not None
        assert latest >= int(printed[-1] if printed else 0)
        assert checkpoints.bad == []
        leaf = jax.ShapeDtypeStruct((300, 100), jnp.int32)
        restored, _ = checkpoints.restore(
            latest, {"a": leaf, "b": jax.ShapeDtypeStruct((1000,), jnp.int32)}
        )
        assert (restored["a"] == latest).all()
        assert (restored["b"] == latest).all()


TWO_PROCESSES = """
import sys
import jax, jax.numpy as jnp, numpy as np
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
from jax.sharding import NamedSharding, PartitionSpec as P
from maskfeat_jax import checkpoint
from maskfeat_jax.checkpoint import Checkpoints, CheckpointError
mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,))
sharding = NamedSharding(mesh, P("data"))
values = np.arange(12, dtype=np.float32).reshape(4, 3)
state = {"w": jax.make_array_from_callback((4, 3), sharding, lambda index: values[index])}
checkpoints = Checkpoints(sys.argv[1], keep_last=1)
assert checkpoints.latest_good() is None
for step in (1, 2):
    checkpoints.save(step, state, {"n": step})
assert checkpoints.latest_good() == 2
like = {"w": jax.ShapeDtypeStruct((4, 3), jnp.float32, sharding=sharding)}
restored, facts = checkpoints.restore(2, like)
shard = restored["w"].addressable_shards[0]
assert np.array_equal(np.asarray(shard.data), values[shard.index]), shard
assert facts == {"n": 2}
try:
    checkpoints.restore(3, like)
except RuntimeError as error:
    print("refused", type(error).__name__)
print("process", jax.process_index(), "of", jax.process_count(), checkpoints.steps())
"""


def test_two_processes_save_and_restore_one_state(tmp_path):
    port = 20_000 + os.getpid() % 20_000
    processes = [start(TWO_PROCESSES, tmp_path, f"localhost:{port}", str(i)) for i in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert "process 0 of 2 [2]" in outputs[0]
    assert "refused CheckpointError" in outputs[0]
    assert "process 1 of 2 [2]" in outputs[1]
    assert "refused FirstProcessFailed" in outputs[1]
