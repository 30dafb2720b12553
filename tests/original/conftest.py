from __future__ import annotations

import pytest

from bench.originals import available


def pytest_collection_modifyitems(items):
    if available():
        return
    for item in items:
        if item.get_closest_marker("original"):
            item.add_marker(pytest.mark.skip(reason="needs torch and SLOWFAST_DIR"))
