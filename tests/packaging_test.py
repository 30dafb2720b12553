"""What is installed: the same everywhere it is written down, and what the code imports.

`make wheel-test` installs it.
"""

from __future__ import annotations

import re
import sys
import tomllib

import pytest

from maskfeat_jax.version import VERSION
from tests.layering_test import imports
from tests.recipes import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Of packages that are imported by another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "cv2": "opencv-python-headless",
    "orbax": "orbax-checkpoint",
    "tensorflow_datasets": "tensorflow-datasets",
    "yaml": "pyyaml",
}
# What a command asks for when it is needed.
ASKED_FOR = {"apache_beam"}


def requirement(line: str) -> str:
    return line.split("#")[0].strip().replace('"', "'")


def names(*groups: list[str]) -> set[str]:
    return {re.split(r"[\[<>=; ]", line)[0] for group in groups for line in group}


def imported_by(*folders: str) -> set[str]:
    found = {
        name.split(".")[0]
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        for name in imports(path)
    }
    ours = {"maskfeat_jax", "input_pipeline"}
    return {DISTRIBUTIONS.get(name, name) for name in found - ours - sys.stdlib_module_names}


def test_requirements_txt_is_the_package_with_its_input_and_tools():
    lines = map(requirement, (ROOT / "requirements.txt").read_text().splitlines())
    expected = [*PROJECT["dependencies"], *EXTRAS["input"], *EXTRAS["dev"]]
    assert sorted(filter(None, lines)) == sorted(expected)


def test_the_package_installs_what_it_imports_and_nothing_of_testing():
    needed = imported_by("maskfeat_jax") - names(EXTRAS["convert"])
    assert needed <= names(PROJECT["dependencies"])
    assert names(PROJECT["dependencies"]) == needed
    assert not names(PROJECT["dependencies"]) & names(EXTRAS["dev"], EXTRAS["input"])


def test_the_input_installs_what_it_imports():
    needed = imported_by("input_pipeline") - ASKED_FOR
    assert needed <= names(PROJECT["dependencies"], EXTRAS["input"])


@pytest.mark.parametrize("accelerator", ["cuda12", "cuda13", "tpu"])
def test_accelerators_take_the_same_jax(accelerator):
    [jax] = [line for line in PROJECT["dependencies"] if line.startswith("jax>")]
    assert EXTRAS[accelerator] == [jax.replace("jax", f"jax[{accelerator}]", 1)]


def test_the_version_is_the_same_everywhere():
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == VERSION
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == VERSION
