"""For all tests: programs are compiled once, whichever worker or child process needs them."""

from __future__ import annotations

import os

import jax

from tests.recipes import ROOT

_CACHE = {
    "jax_compilation_cache_dir": str(ROOT / ".pytest_cache" / "xla"),
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}
for _name, _value in _CACHE.items():
    os.environ.setdefault(_name.upper(), str(_value))  # for the processes that tests start
    jax.config.update(_name, type(_value)(os.environ[_name.upper()]))
