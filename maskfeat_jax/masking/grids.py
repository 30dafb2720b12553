"""Token grids, and the coarser grids of cells on which some masks are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Bool

from maskfeat_jax.typing import Array

Grid = tuple[int, int, int]  # along time, height, width


def enlarge(mask: Bool[Array, "b f r c"], grid: Grid) -> Bool[Array, "b t h w"]:
    """Repeats each cell so that the mask covers the token grid."""
    for axis, size in enumerate(grid, start=1):
        mask = jnp.repeat(mask, size // mask.shape[axis], axis=axis)
    return mask


def by(sizes: Sequence[int]) -> str:
    """Sizes as text: `8x14x14`."""
    return "x".join(map(str, sizes))


def check_ratio(ratio: float) -> None:
    """Raises ValueError for a mask ratio that is not in (0, 1)."""
    if not 0 < ratio < 1:
        raise ValueError(f"mask ratio {ratio} is not between 0 and 1")


def check_rectangles(ratio: float, min_area: float, aspect: float) -> None:
    """Raises ValueError for a value that is not a fraction."""
    check_ratio(ratio)
    if not 0 < min_area <= 1 or not 0 < aspect <= 1:
        raise ValueError(f"min_area={min_area} and aspect={aspect} must be in (0, 1]")


def check_window(window: tuple[int, ...] | None, axes: int) -> None:
    """Raises ValueError for a window with another number of axes or sizes below 1."""
    if window is not None and (len(window) != axes or min(window) < 1):
        names = "(time, height, width)" if axes == 3 else "(height, width)"
        raise ValueError(f"mask window {window} must be {axes} positive sizes {names}")


def check_cells(kind: str, cells: Sequence[int], grid: Sequence[int]) -> None:
    """Raises ValueError if cells do not divide the grid, or a frame has fewer than 2x2 of them."""
    if any(g % c for c, g in zip(cells, grid, strict=True)):
        raise ValueError(
            f"mask window {by(cells)} does not divide the token grid {by(grid)}: each cell must "
            "cover a whole number of tokens"
        )
    if min(cells[-2:]) < 2:
        raise ValueError(f"{kind} masks need at least 2x2 tokens, got {by(cells[-2:])}")


def check_count(masked: int, tokens: int, ratio: float) -> None:
    """Raises ValueError if no token would be visible, or none masked."""
    if not 0 < masked < tokens:
        left = "no visible" if masked >= tokens else "no masked"
        raise ValueError(f"mask ratio {ratio} leaves {left} token of {tokens}")
