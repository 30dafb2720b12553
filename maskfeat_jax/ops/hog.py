"""Histograms of oriented gradients (HOG), the target of MaskFeat."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from maskfeat_jax.typing import Array

NORMALISATIONS = ("l2", "l1", "none")
COLOURS = ("rgb", "grey")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def hog(
    images: Float[Array, "*lead height width 3"],
    *,
    bins: int = 9,
    cell: int = 8,
    signed: bool = False,
    normalise: str = "l2",
    colour: str = "rgb",
    window: int = 0,
) -> Float[Array, "*lead rows columns channels {bins}"]:
    """Histogram of gradient directions in each cell, one per colour channel.

    A pixel votes for exactly one bin, weighted by the magnitude of its gradient; there is no
    interpolation between bins or cells. The direction is measured from the row (vertical) axis: bin
    `k` covers the directions `[k, k + 1) * pi / bins`, so a ramp along y fills bin 0 and, with nine
    bins, a ramp along x fills bin 4. A direction on a border belongs to the bin above it. Bins are
    found by comparing cosines, not with `atan2`, so a pixel within rounding error of a border can
    differ from PyTorch; this is common only where 8-bit pixels make `gx` almost zero.

    Args:
      images: RGB, normally after the mean/std normalisation of the network's input; any leading
        axes. Converted to float32.
      bins: number of directions.
      cell: side of a cell, pixels.
      signed: directions over [0, 2 pi), so that opposite gradients differ, instead of [0, pi).
      normalise: "l2" or "l1" scales each histogram to unit norm over its bins; a flat cell stays
        zero. "none" keeps the sums of magnitudes.
      colour: "rgb" makes three histograms per cell, "grey" one, of the luma.
      window: side in pixels of the Gaussian that weights the votes, tiled over the image; 0 for
        none (PySlowFast), 16 in OpenMMLab.

    Returns:
      float32 histograms, without gradient.

    Raises:
      ValueError: height or width is not a whole number of cells or windows, or a setting is
        unknown.

    Source: MaskFeat (arXiv:2112.09133) section 3.2; equal to `HOGLayerC` of PySlowFast
    (slowfast/models/operators.py) and, with `window=16`, to `HOGGenerator` of OpenMMLab.
    """
    height, width = images.shape[-3:-1]
    check_hog_settings(bins, cell, normalise, colour, window)
    for size in filter(None, (cell, window)):
        if height % size or width % size:
            what = "cells" if size == cell else "windows"
            raise ValueError(
                f"image {height}x{width} is not a whole number of {size}x{size} {what}"
            )
    images = lax.stop_gradient(images.astype(jnp.float32))
    if colour == "grey":
        images = jnp.sum(images * jnp.asarray(LUMA), -1, keepdims=True)

    def votes(images: Array) -> Array:
        planes = jnp.moveaxis(images, -1, -3)
        return _votes(planes, bins=bins, cell=cell, signed=signed, window=window)

    def one_by_one(images: Array) -> Array:
        return lax.map(votes, images).reshape(-1, bins, width)

    flat = images.reshape(-1, *images.shape[-3:])
    # On a CPU, one image at a time fits into the cache: seven times faster than the whole batch.
    flat = lax.platform_dependent(flat, cpu=one_by_one, default=votes)
    histograms = _scale(flat.reshape(-1, bins, width // cell, cell).sum(-1), normalise)
    histograms = histograms.reshape(-1, images.shape[-1], height // cell, *histograms.shape[1:])
    histograms = jnp.moveaxis(histograms, (-4, -2), (-2, -1))
    return histograms.reshape(*images.shape[:-3], *histograms.shape[1:])


def check_hog_settings(bins: int, cell: int, normalise: str, colour: str, window: int) -> None:
    """Raises ValueError for settings that are invalid for any image."""
    if bins < 1 or cell < 1 or window < 0:
        raise ValueError(f"bins={bins} and cell={cell} must be positive, window={window} 0 or more")
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise={normalise!r} is not one of {', '.join(NORMALISATIONS)}")
    if colour not in COLOURS:
        raise ValueError(f"colour={colour!r} is not one of {', '.join(COLOURS)}")


def gradients(
    planes: Float[Array, "*lead height width"],
) -> tuple[Float[Array, "*lead height width"], Float[Array, "*lead height width"]]:
    """Sobel filters: left minus right, top minus bottom, with reflection at the border.

    Along x the difference is taken before the smoothing (along y after it), so that the normal
    derivative is exactly zero on the border; otherwise rounding would decide the bin there.
    """
    lead = [(0, 0)] * (planes.ndim - 2)
    padded = jnp.pad(planes, [*lead, (1, 1), (1, 1)], mode="reflect")
    across = padded[..., :-2] - padded[..., 2:]
    gx = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    smooth = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    gy = smooth[..., :-2, :] - smooth[..., 2:, :]
    return gx, gy


def _votes(
    planes: Float[Array, "*lead height width"], *, bins: int, cell: int, signed: bool, window: int
) -> Float[Array, "rows {bins} width"]:
    """Magnitudes by bin, summed over the rows of each cell, as one expression that XLA fuses.

    The rows of cells of all planes are one axis: with one more axis for each leading one, XLA
    searches for minutes for a tiling on a GPU.
    """
    gx, gy = gradients(planes)
    magnitude = jnp.sqrt(gx * gx + gy * gy)
    # XLA recomputes a cheap expression in each of its consumers, but not a division: dividing last
    # halves the time on a CPU.
    turn = _turn(gx, gy, magnitude, signed) / jnp.maximum(magnitude, np.finfo(np.float32).tiny)
    if window:
        magnitude = magnitude * _tiled_gaussian(window, *planes.shape[-2:])
    borders = _bin_borders(bins, signed)
    low, high = borders[:-1, None], borders[1:, None]
    rows = (-1, cell, 1, planes.shape[-1])
    turn, magnitude = turn.reshape(rows), magnitude.reshape(rows)
    # The sum over the rows of a cell is written out: XLA's CPU backend would materialise it.
    by_row = jnp.zeros((), jnp.float32)
    for r in range(cell):
        inside = (turn[:, r] >= low) & (turn[:, r] < high)
        by_row = by_row + jnp.where(inside, magnitude[:, r], 0.0)
    return by_row


def _turn(gx: Array, gy: Array, magnitude: Array, signed: bool) -> Array:
    """A monotonic function of the direction from the row axis, times the magnitude.

    The function is minus the cosine on [0, pi), and 4 plus the cosine on [pi, 2 pi). The gap in
    between separates directions just below and above pi, where the cosine is flat.
    """
    first_half = (gx > 0) | ((gx == 0) & (gy >= 0))
    return jnp.where(first_half, -gy, 4 * magnitude + gy if signed else gy)


def _bin_borders(bins: int, signed: bool) -> np.ndarray:
    """The values of `_turn` at the borders of the bins."""
    angles = np.arange(bins + 1) * ((2 if signed else 1) * np.pi / bins)
    turns = np.where(angles < np.pi, -np.cos(angles), 4 + np.cos(angles))
    turns[np.isclose(angles, np.pi)] = 2  # between the halves
    turns[0], turns[-1] = -np.inf, np.inf
    return turns.astype(np.float32)


def _tiled_gaussian(size: int, height: int, width: int) -> np.ndarray:
    """Gaussian of standard deviation size / 2 and unit sum, repeated over the image."""
    profile = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size // 2)) ** 2)
    kernel = np.outer(profile, profile)
    return np.tile(kernel / kernel.sum(), (height // size, width // size)).astype(np.float32)


def _scale(histograms: Array, normalise: str) -> Array:
    """Unit norm over the bins (the axis before the last)."""
    if normalise == "none":
        return histograms
    if normalise == "l1":
        norm = jnp.sum(histograms, -2, keepdims=True)
    else:
        norm = jnp.sqrt(jnp.sum(histograms * histograms, -2, keepdims=True))
    return histograms / jnp.maximum(norm, 1e-12)
