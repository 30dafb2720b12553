"""Shared by all tests: fast and cached compilation, and trained runs made once."""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import re
from collections.abc import Callable

import jax
import pytest

from tests.recipes import ROOT, shrunken

_SETTINGS = {
    "jax_compilation_cache_dir": str(ROOT / ".pytest_cache" / "xla"),
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    # Compiling takes most of the time; the programs are too small to run faster for it.
    "jax_disable_most_optimizations": True,
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name.upper(), str(_value))  # for the processes that tests start
    jax.config.update(_name, type(_value)(os.environ[_name.upper()]))

FinishedRun = Callable[..., tuple[pathlib.Path, dict[str, float]]]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """`finished_run(name, init_from="")`: work directory and results of a shrunken recipe.

    Trained once for all workers: to be read, and copied by tests that run it again. `init_from` is
    the name of the recipe whose finished run it starts from.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    folder.mkdir(exist_ok=True)

    def finished(name: str, init_from: str = "") -> tuple[pathlib.Path, dict[str, float]]:
        from maskfeat_jax.commands.train import run_recipe  # not for tests that train nothing

        workdir = folder / re.sub("[:,]", "-", name)
        results = workdir.with_suffix(".json")
        with open(workdir.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not results.exists():
                small = shrunken(name)
                if init_from:
                    small["model"]["init_from"] = str(finished(init_from)[0])
                results.write_text(json.dumps(run_recipe(small, workdir)))
        return workdir, json.loads(results.read_text())

    return finished
