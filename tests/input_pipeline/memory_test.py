from __future__ import annotations

import subprocess
import sys

import pytest

from tests.recipes import ROOT

# In a process of its own, as the setting is for good.
CODE = """
import resource
import numpy as np
from input_pipeline.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        kept = [np.ones(1 << 20, np.uint8) for _ in range(32)]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), keep_freed_memory(), faults() and faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again():
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    handed_back, is_glibc, kept = done.stdout.split()
    if is_glibc == "False":
        pytest.skip("not glibc")
    assert int(kept) < int(handed_back) / 5
