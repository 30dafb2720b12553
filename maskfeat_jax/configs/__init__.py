"""The recipes, in a checkout those of its folder `configs`; an installed package has them here."""

from __future__ import annotations

from pathlib import Path

__path__ = [str(Path(__file__).parents[2] / "configs")]
