"""RoIAlign: features of boxes, as one matrix product per axis.

Bilinear samples of a box are a product of weights along its rows and weights along its columns, so
that nothing is gathered and all shapes are fixed.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from maskfeat_jax.typing import Array


def roi_align(
    features: Float[Array, "b h w c"],
    boxes: Float[Array, "b n 4"],
    bins: tuple[int, int],
    *,
    scale: float = 1.0,
    aligned: bool = True,
) -> Float[Array, "b n y x c"]:
    """Averages bilinear samples of each of the `bins` that a box is divided into.

    A bin has as many samples along an axis as it has cells, rounded up (`sampling_ratio` 0 or -1 of
    torchvision); a box larger than the map has no more than a box of its size. Samples further than
    one cell outside the map are 0, as are empty boxes if `aligned`.

    Args:
      features: a map for each row of the batch.
      boxes: left, top, right, bottom.
      bins: rows and columns of the result, y and x.
      scale: cells per unit of the boxes.
      aligned: coordinate 0 is the border of the first cell, instead of its centre, and boxes may be
        smaller than a cell.

    Source: Mask R-CNN (arXiv:1703.06870) section 3; `roi_align` of torchvision, ROIAlign of
    detectron2.
    """
    left, top, right, bottom = jnp.moveaxis(boxes * scale - 0.5 * aligned, -1, 0)
    _, height, width, _ = features.shape
    rows = _weights(top, bottom, height, bins[0], aligned)
    columns = _weights(left, right, width, bins[1], aligned)
    across = jnp.einsum("bnxw,bhwc->bnhxc", columns, features, precision="highest")
    return jnp.einsum("bnyh,bnhxc->bnyxc", rows, across, precision="highest")


def _weights(
    start: Float[Array, "b n"], stop: Float[Array, "b n"], cells: int, bins: int, aligned: bool
) -> Float[Array, "b n bins cells"]:
    """Weights of the cells of an axis in each bin from `start` to `stop`."""
    size = stop - start if aligned else jnp.maximum(stop - start, 1)
    most = -(-cells // bins) + 1  # samples per bin
    count = jnp.clip(jnp.ceil(size / bins), 0, most)[..., None, None]
    sample, bin_ = jnp.arange(most), jnp.arange(bins)[:, None]
    fraction = (bin_ + (sample + 0.5) / jnp.maximum(count, 1)) / bins
    at = start[..., None, None] + fraction * size[..., None, None]  # b n bins samples
    used = (sample < count) & (at >= -1) & (at <= cells)
    distance = abs(jnp.clip(at, 0, cells - 1)[..., None] - jnp.arange(cells))
    weights = jnp.maximum(1 - distance, 0) * used[..., None]
    return weights.sum(-2) / jnp.maximum(count, 1)
