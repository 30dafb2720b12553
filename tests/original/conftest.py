from __future__ import annotations

import jax
import pytest

from bench.originals import available


@pytest.fixture
def float64():
    """JAX with 64-bit numbers."""
    with jax.enable_x64(True):
        yield


def pytest_collection_modifyitems(items):
    """Skips what needs an original that is not here; the marker names it, if not PySlowFast.

    It names variables of `bench.originals`, or packages.
    """
    for item in items:
        marks = list(item.iter_markers("original"))
        variables = {name for mark in marks for name in mark.args or ["SLOWFAST_DIR"]}
        if missing := sorted(name for name in variables if not available(name)):
            item.add_marker(pytest.mark.skip(reason=f"needs torch and {', '.join(missing)}"))
