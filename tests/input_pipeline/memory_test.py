from __future__ import annotations

import subprocess
import sys

import pytest

from tests.recipes import ROOT

# In a process of its own, as the setting is for good.
CODE = """
import resource, sys
import numpy as np
from input_pipeline.memory import keep_freed_memory
if sys.argv[1] == "keep":
    print(keep_freed_memory())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        kept = [np.ones(1 << 20, np.uint8) for _ in range(32)]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again():
    def run(how: str) -> list[str]:
        command = [sys.executable, "-c", CODE, how]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.split()

    told, kept = run("keep")
    (handed_back,) = run("not")
    if told == "False":
        pytest.skip("not glibc")
    assert int(kept) < int(handed_back) / 5
