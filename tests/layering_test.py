"""Imports go down only; external packages are imported only in the rooms that may use them."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

from tests.recipes import ROOT

# Rooms of maskfeat_jax from the lowest to the highest; those of one line may import each other.
ORDER = """
    typing files faults pictures class_names configs version
    ops
    models masking targets augment losses flops detection
    optim sharding state transfer
    steps sections
    recipes
    distributed
    workdir
    tasks
    checkpoints
    convert
    training
    extract commands api
"""
LEVEL = {room: i for i, line in enumerate(ORDER.strip().splitlines()) for room in line.split()}
# Packages that only some modules may import. TensorFlow is for tf.data alone.
CLOSED = {
    "tensorflow": "input_pipeline/tf_data.py",
    "torch": "maskfeat_jax/convert/",
    "jax": "maskfeat_jax/",
    "maskfeat_jax": "maskfeat_jax/ configs/",
    "configs": "nobody: they are maskfeat_jax.configs",
    "input_pipeline": "input_pipeline/ maskfeat_jax/files.py maskfeat_jax/training/build.py "
    "maskfeat_jax/extract/ maskfeat_jax/commands/",
}


def imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_go_down_and_stay_in_their_rooms():
    offenders = []
    for folder in ("maskfeat_jax", "input_pipeline", "configs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            room = name.split("/")[1].removesuffix(".py")
            for imported in sorted(imports(path)):
                package, *inner = imported.split(".")
                if package in CLOSED and not name.startswith(tuple(CLOSED[package].split())):
                    offenders.append(f"{name} imports {imported}")
                ours = package == "maskfeat_jax" == folder and inner and room != "__init__"
                if ours and LEVEL[inner[0]] > LEVEL[room]:
                    offenders.append(f"{name} imports {imported}, which is above it")
    assert not offenders, "\n".join(offenders)


def test_package_needs_neither_tensorflow_nor_torch():
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['torch'] = None\n"
        "import maskfeat_jax.convert, maskfeat_jax.training.run, maskfeat_jax.models\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
