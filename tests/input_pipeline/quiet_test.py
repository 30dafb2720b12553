"""Libraries' lines stay off the terminal; ours, and those of what fails, do not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.recipes import ROOT

HEAD = "import faulthandler, os, sys\nfrom input_pipeline.quiet import held_back\n"
NOISE = "    os.write(2, b'noise\\n')\n"


def stderr_of(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120).stderr


def test_what_c_writes_is_held_back_and_what_python_writes_is_not():
    code = HEAD + "with held_back():\n" + NOISE + "    print('ours', file=sys.stderr)\n"
    assert stderr_of(code + "os.write(2, b'after\\n'); print('last', file=sys.stderr)") == (
        "ours\nafter\nlast\n"
    )


def test_it_is_shown_if_the_block_fails():
    code = HEAD + "with held_back():\n" + NOISE + "    raise ImportError('broken')"
    lines = stderr_of(code).splitlines()
    assert (lines[0], lines[-1]) == ("noise", "ImportError: broken")


def test_a_crash_inside_shows_its_stack():
    text = stderr_of(HEAD + "faulthandler.enable()\nwith held_back():\n    os.abort()")
    assert "Fatal Python error: Aborted" in text
    code = HEAD + "faulthandler.enable()\nwith held_back():\n    pass\nos.abort()"
    assert "Fatal Python error: Aborted" in stderr_of(code)


def test_without_standard_error():
    code = HEAD + "os.close(2)\nwith held_back():\n    print(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("3\n", 0)


@pytest.mark.parametrize("module", ["input_pipeline.tf_data", "maskfeat_jax.commands.train"])
def test_imports_say_nothing(module):
    assert stderr_of(f"import {module}") == ""
