"""Targets of `estimate`, without the compilers that they need."""

from __future__ import annotations

import types

import pytest

from maskfeat_jax.commands import hardware as module
from maskfeat_jax.commands.hardware import GIB, TPUS, hardware
from maskfeat_jax.commands.options import UsageError


@pytest.fixture
def asked(monkeypatch):
    """What JAX is asked for; it answers with two devices."""
    asked = []

    def topology(*names, **options):
        asked.append((names, options))
        return types.SimpleNamespace(devices=("a", "b"))

    monkeypatch.setattr(module.topologies, "get_topology_desc", topology)
    monkeypatch.setattr(module.os, "environ", {})
    return asked


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("v5e:3x3", "there is no such slice; there are 1x1, 2x2, 2x4, .*16x16$"),
        ("v5p:2x4", "there is no such slice; there are 2x2x1, .*"),
        ("v9:2x2", r"expected a TPU slice, .*\(v4, v5e, v5p, v6e\), GPUs, .*h100"),
        ("v5e", "expected a TPU slice"),
        ("h100", "expected a TPU slice"),
        ("h100:12", "expected 1 to 8 GPUs, or a multiple of 8"),
        ("h100:0", "expected 1 to 8 GPUs"),
        ("h100:", "expected 1 to 8 GPUs"),
        ("none.txtpb:8", "there is no file none.txtpb"),
    ],
)
def test_what_does_not_exist_is_refused(target, message, asked):
    with pytest.raises(UsageError, match=f"--target={target}: {message}"):
        hardware(target)
    assert asked == []


@pytest.mark.parametrize("name", TPUS)
def test_each_slice_is_asked_for_by_its_name(name, asked):
    for size in TPUS[name].slices:
        found = hardware(f"{name}:{size}")
        assert found.devices == ["a", "b"]
        assert 15 * GIB < found.memory_bytes == TPUS[name].memory_bytes
    assert [options["topology_name"] for _, options in asked] == [
        f"{name}:{size}" for size in TPUS[name].slices
    ]


@pytest.mark.parametrize(("size", "topology"), [("1", "1x1x1"), ("8", "1x1x8"), ("64", "1x8x8")])
def test_gpus_are_hosts_of_eight(size, topology, asked):
    found = hardware(f"h100:{size}")
    assert asked[0][1]["topology"] == topology
    assert found.memory_bytes == pytest.approx(0.75 * 80e9, rel=0.1)


def test_a_specification_may_be_given(tmp_path, asked):
    path = tmp_path / "a100.txtpb"
    info = "gpu_device_info {{ device_memory_size: 1000 cuda_compute_capability {{ major: {} }} }}"
    path.write_text(info.format(8))
    assert hardware(f"{path}:8").memory_bytes == 750
    assert asked[0][0] == ("a100", "cuda")
    for text in ("nothing", info.format(7)):
        path.write_text(text)
        with pytest.raises(UsageError, match="not the specification of an NVIDIA GPU .* 8.0"):
            hardware(f"{path}:8")


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("v5e:2x2", RuntimeError("TPU support not installed"), r'pip install "jax\[tpu\]"'),
        ("h100:1", NotImplementedError("topology"), r'pip install "jax\[cuda12\]".*aot-gpu'),
    ],
)
def test_a_missing_compiler_is_named(target, error, message, monkeypatch):
    def topology(*_, **__):
        raise error

    monkeypatch.setattr(module.topologies, "get_topology_desc", topology)
    monkeypatch.setattr(module.os, "environ", {})
    with pytest.raises(UsageError, match=message):
        hardware(target)
