"""The recipe of recipe.py with every axis of the mesh; see topologies.py."""

from __future__ import annotations

import sys
from pathlib import Path

from ml_collections import ConfigDict

sys.path.append(str(Path(__file__).parents[2]))  # main.py reads this file by its path

from bench.faults import recipe


def get_config(name: str) -> ConfigDict:
    """See recipe.py."""
    config = recipe.get_config(name)
    config.mesh = {"parameters": 1, "tensor": 1}
    return config
