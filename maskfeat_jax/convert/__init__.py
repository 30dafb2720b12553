"""Reads and writes PyTorch checkpoints.

`load_torch` reads a file of any known layout, `load` also reads checkpoints of this package,
`to_torch` returns a state dict in a layout, `write` writes files that the original programs load.
On the command line: `python -m maskfeat_jax.convert --help`.
"""

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.exporting import Export, export, save, to_torch, write
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.importing import load, load_torch, resized, sha256
from maskfeat_jax.convert.layouts import LAYOUTS
from maskfeat_jax.convert.source import Report

__all__ = [
    "LAYOUTS",
    "ConvertError",
    "Export",
    "Pretrained",
    "Report",
    "export",
    "load",
    "load_torch",
    "resized",
    "save",
    "sha256",
    "to_torch",
    "write",
]
