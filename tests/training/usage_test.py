from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import pytest

from maskfeat_jax.augment import Normalise
from maskfeat_jax.commands.train import run_recipe
from maskfeat_jax.flops import training_flops
from maskfeat_jax.masking import Random
from maskfeat_jax.models import create_model
from maskfeat_jax.targets import Pixels
from maskfeat_jax.tasks import Pretrain
from maskfeat_jax.training.usage import Profile, Usage
from tests.recipes import shrunken


def task():
    target = Pixels((1, 8, 8))
    sizes = {"width": 24, "depth": 1, "heads": 2, "tubelet": (1, 8, 8)}
    model = create_model("maskfeat", encoder="vit_ti16", head={"dim": target.dim}, **sizes)
    given = {"normalise": Normalise(), "clip": (1, 32, 32), "seed": 0}
    return Pretrain(model=model, masker=Random(0.5), target=target, **given)


@pytest.fixture
def device(monkeypatch):
    """A device of a kind that a test chooses, with 3 of at most 5 GiB of memory in use."""

    def of_kind(kind, platform="gpu"):
        stats = {"bytes_in_use": 3 * 2**30, "peak_bytes_in_use": 5 * 2**30}
        made = types.SimpleNamespace(
            device_kind=kind, platform=platform, memory_stats=lambda: stats
        )
        monkeypatch.setattr("jax.local_devices", lambda: [made])
        monkeypatch.setattr("jax.device_count", lambda: 8)

    return of_kind


def test_utilisation_is_the_share_of_the_peak(device):
    device("NVIDIA H100 80GB HBM3")
    usage = Usage(task())
    assert usage.missing == ""
    flops = training_flops(task().model, (1, 32, 32))
    rates = usage.rates(1e6)
    assert rates["mfu"] == pytest.approx(1e6 * flops / (8 * 989.4e12))
    assert (rates["device_gib"], rates["device_peak_gib"]) == (3.0, 5.0)


def test_an_unknown_peak_is_said_and_a_cpu_is_none(device):
    device("NVIDIA B300")
    usage = Usage(task())
    assert usage.missing.startswith("the peak of 'NVIDIA B300' is not known")
    assert "mfu" not in usage.rates(1e6)
    device("cpu", platform="cpu")
    assert Usage(task()).missing == ""


def followed(profile, steps):
    """What is said while steps are made."""
    double = jax.jit(lambda x: 2 * x)
    x = jnp.ones(4)
    for step in steps:
        profile.before(step, x)
        x = double(x)
    profile.end(x)


def test_a_trace_of_some_steps_is_written(tmp_path):
    said = []
    followed(Profile(tmp_path, (2, 3), done=0, total=8, report=said.append), range(8))
    assert said == [f"a trace for XProf is in {tmp_path}"]
    assert list(tmp_path.rglob("*.xplane.pb"))


@pytest.mark.parametrize("done", [0, 3])
def test_steps_that_are_not_made_are_said(tmp_path, done):
    said = []
    first = 8 if done == 0 else 2
    profile = Profile(tmp_path, (first, 3), done=done, total=8, report=said.append)
    followed(profile, range(done, 8))
    assert said == [
        f"warning: run.profile={(first, 3)}: no trace is written, as step {first} is not among "
        f"{done} to 7"
    ]
    assert not list(tmp_path.iterdir())


def test_a_run_that_ends_within_the_trace_writes_it(tmp_path):
    said = []
    followed(Profile(tmp_path, (2, 30), done=0, total=4, report=said.append), range(4))
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_a_trace_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    profile = Profile(tmp_path / "file", (0, 1), done=0, total=2, report=said.append)
    followed(profile, range(2))
    (sentence,) = said
    assert sentence.startswith("warning: run.profile: no trace is written: ")


def test_a_run_writes_its_trace(tmp_path):
    small = shrunken("maskfeat_vit_in1k:b16")
    small["run"]["profile"] = (1, 2)
    run_recipe(small, tmp_path)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert "a trace for XProf is in" in (tmp_path / "log.txt").read_text()
    small["run"]["profile"] = (1, 0)
    with pytest.raises(ValueError, match=r"run: profile=\(1, 0\): expected a first step and how"):
        run_recipe(small, tmp_path / "wrong")
