"""Imports go down only, and each room needs only what is its own."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

from tests.recipes import ROOT

ORDER = [
    {"arrays", "dead_man", "pictures", "signals", "testing"},
    {"ops"},
    {"augment", "losses", "masking", "models", "targets"},
    {"flops", "optim", "sharding", "state", "transfer"},
    {"steps"},
    {"peers", "processes", "roll_call"},
    {"build", "run", "run_lock", "values", "workdir"},
    {"checkpoint", "leaves", "manifest", "reading", "saving", "storage", "stored_arrays"},
    {"agreement", "console", "feed", "hosts", "report", "tensorboard", "watchdog", "window"},
    {"tasks"},
    {"convert", "features", "stablehlo"},
    {"divergence", "evaluate", "loop"},
    {"experiment"},
    {"training"},
    {"commands", "extract"},
]
# What a room may not import, but for these.
EXCEPT = {"extract": {"input_pipeline"}, "convert": {"torch"}}
LEVEL = {name: i for i, names in enumerate(ORDER) for name in names}


def imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def modules(room: str) -> list[pathlib.Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", modules("maskfeat_jax"), ids=lambda p: str(p.relative_to(ROOT)))
def test_package_imports_go_down(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[1] == "__init__":
        return
    closed = {"tensorflow", "torch", "input_pipeline", "configs"} - EXCEPT.get(parts[1], set())
    for name in imports(path):
        words = name.split(".")
        assert words[0] not in closed, name
        if words[0] == "maskfeat_jax" and len(words) > 1 and words[1] != parts[1]:
            assert LEVEL[words[1]] <= LEVEL[parts[1]], f"{parts[1]} imports {name}"


@pytest.mark.parametrize("room", ["input_pipeline", "configs"])
def test_other_rooms_import_no_project_code(room):
    for path in modules(room):
        for name in imports(path):
            assert name.split(".")[0] not in ({"jax", "flax", "maskfeat_jax", "torch"} - {room}), (
                path
            )


def test_files_and_functions_are_small():
    for room in ("maskfeat_jax", "input_pipeline", "configs"):
        for path in modules(room):
            text = path.read_text()
            assert text.count("\n") <= 400, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    assert node.end_lineno - node.lineno < 100, f"{path}: {node.name}"


def test_package_needs_neither_tensorflow_nor_torch():
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['torch'] = None\n"
        "import maskfeat_jax.convert, maskfeat_jax.train.experiment, maskfeat_jax.models\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
