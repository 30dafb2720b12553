"""TPU slices and GPUs to compile for, on a machine that has none of them.

JAX's ahead-of-time compilation needs the compiler of the device only: the package `libtpu` or
JAX's CUDA plugin, the extras `aot-tpu` and `aot-gpu`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from maskfeat_jax.commands.options import UsageError

GIB = 2**30
PER_HOST = 8  # GPUs


class Hardware(NamedTuple):
    """Devices to compile for.

    Attributes:
      devices: of a JAX topology; nothing can run on them.
      memory_bytes: what a program may use on one device.
      compiler_options: for `jax.stages.Lowered.compile`.
    """

    devices: list[Any]
    memory_bytes: int
    compiler_options: Mapping[str, Any]


class Tpu(NamedTuple):
    """A generation of TPUs: memory that its compiler grants a program, and slices to be had."""

    memory_bytes: int
    slices: tuple[str, ...]


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"),
    *("4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16"),
)

# Slices: https://docs.cloud.google.com/tpu/docs/v6e (and v5e, v5p, v4).
TPUS = {
    "v4": Tpu(int(30.75 * GIB), _CUBES),
    "v5e": Tpu(int(15.75 * GIB), _FLAT),
    "v5p": Tpu(int(95.74 * GIB), _CUBES),
    "v6e": Tpu(int(31.25 * GIB), _FLAT),
}
_SPECIFICATIONS = files("maskfeat_jax.commands").joinpath("gpus")
GPUS = tuple(sorted(file.name.removesuffix(".txtpb") for file in _SPECIFICATIONS.iterdir()))
# JAX takes this share of a GPU's memory at its start (XLA_PYTHON_CLIENT_MEM_FRACTION).
GPU_SHARE = 0.75
# Searching the best form of a matrix product needs the device.
_WITHOUT_GPU = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}
# libtpu otherwise asks Google's metadata server what this host is, complains, and takes a lock.
_WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


def hardware(target: str) -> Hardware:
    """The devices of a target, such as `v5e:2x4`, `h100:8` or `a100.txtpb:8`.

    Makes JAX use the CPU for everything that is computed; must be called before JAX has used a
    device.

    Raises:
      UsageError: there is no such target, or its compiler is not installed.
    """
    name, _, size = target.rpartition(":")
    jax.config.update("jax_platforms", "cpu")
    if name in TPUS:
        return _tpu_slice(name, size)
    if name in GPUS:
        return _gpus(name, _SPECIFICATIONS.joinpath(f"{name}.txtpb"), size)
    if name.endswith(".txtpb"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"--target={target}: there is no file {path}")
        return _gpus(path.stem, path, size)
    raise UsageError(
        f"--target={target}: expected a TPU slice, such as v5e:2x4 ({', '.join(TPUS)}), GPUs, such "
        f"as {GPUS[0]}:8 ({', '.join(GPUS)}), or the specification of a GPU, such as a100.txtpb:8 "
        "(docs/accelerators.md)"
    )


def _tpu_slice(name: str, size: str) -> Hardware:
    if size not in TPUS[name].slices:
        there_are = ", ".join(TPUS[name].slices)
        raise UsageError(f"--target={name}:{size}: there is no such slice; there are {there_are}")
    os.environ.update(_WITHOUT_TPU)
    options: dict[str, Any] = {}
    if size == "1x1":
        options["chips_per_host_bounds"] = [1, 1, 1]
    if name == "v4":
        options["chip_config_name"] = "megacore"  # two cores as one device, as JAX has them
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{name}:{size}", **options
        )
    except RuntimeError as error:
        if "not installed" not in str(error):
            raise
        raise _no_compiler(f"{name}:{size}", "TPUs", "aot-tpu", "jax[tpu]") from error
    return Hardware(list(found.devices), TPUS[name].memory_bytes, {})


def _gpus(name: str, specification: Any, size: str) -> Hardware:
    if not re.fullmatch("[1-9][0-9]*", size) or (int(size) > PER_HOST and int(size) % PER_HOST):
        raise UsageError(
            f"--target={name}:{size}: expected 1 to {PER_HOST} GPUs, or a multiple of {PER_HOST}"
        )
    text = specification.read_text()
    memory = re.search(r"device_memory_size: *(\d+)", text)
    capability = re.search(r"cuda_compute_capability *\{ *major: *(\d+)", text)
    if memory is None or capability is None or int(capability[1]) < 8:
        raise UsageError(
            f"--target: {specification} is not the specification of an NVIDIA GPU of compute "
            "capability 8.0 or more (`GpuTargetConfigProto` of OpenXLA in text form, with "
            "device_memory_size and cuda_compute_capability)"
        )
    hosts, each = max(int(size) // PER_HOST, 1), min(int(size), PER_HOST)
    jax.devices()  # finds the plugin
    try:
        found = topologies.get_topology_desc(
            name, "cuda", target_config=text, topology=f"1x{hosts}x{each}"
        )
    except NotImplementedError as error:
        raise _no_compiler(f"{name}:{size}", "GPUs", "aot-gpu", "jax[cuda12]") from error
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"--target: XLA does not take {specification}: {error}") from error
    return Hardware(list(found.devices), int(GPU_SHARE * int(memory[1])), _WITHOUT_GPU)


def _no_compiler(target: str, kind: str, extra: str, package: str) -> UsageError:
    return UsageError(
        f"--target={target} needs the compiler for {kind}, but no such device: "
        f'pip install "{package}" (in a checkout: pip install -e ".[{extra}]")'
    )
