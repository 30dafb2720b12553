"""Multiscale Vision Transformer, version 2."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from maskfeat_jax.models.layers import (
    NORMAL,
    Blocks,
    check_choice,
    check_fields,
    check_sizes,
    is_scanned,
    uniform,
)
from maskfeat_jax.models.pooling_attention import PoolingBlock, pooled_grid
from maskfeat_jax.ops.patches import Size3, patchify, token_grid
from maskfeat_jax.typing import Array

PATCH: Size3 = (2, 4, 4)  # of videos: frames, rows and columns from one patch to the next


class MViT(nn.Module):
    """MViTv2 without the final norm, which is part of the heads.

    Overlapping patches, a class token, no absolute positions, attention with pooled queries, keys
    and values, learned relative positions in time, height and width. At the start of each stage
    but the first, width and heads double and the grid may be halved along height and width. Keys
    and values are pooled so that their grid stays about the same.

    Tables of relative positions have the lengths for the clip at initialisation; for clips of
    another size they are interpolated.

    Attributes:
      width: of the tokens of the first stage.
      depth: number of blocks.
      heads: attention heads of the first stage.
      stages: index of the first block of each stage but the first.
      tubelet: frames, rows and columns of one output token, pixels. With three stages after the
        first, (2, 32, 32) halves the grid at the start of each (the published classifier) and
        (2, 16, 16) of all but the last (pre-training with MaskFeat). The parameters are the same
        except for the length of the tables of the last stage. One frame instead of two is for
        images, whose patches and pooling have no extent in time.
      widen_in: layer that doubles the width: "mlp" of the block before a stage (MaskFeat), or
        "attention" of its first block (supervised MViTv2).
      kv_stride: of the keys and values along height and width in the first stage; each halving of
        the grid halves it.
      mlp_ratio: width of the MLP relative to the tokens.
      drop_path: rate of the last block; the first has 0.
      scan: trace and compile equal blocks once, with stacked parameters; None: see
        `layers.is_scanned`.
      remat: store only the inputs of blocks for the backward pass, see `models.layers`.
      attention: kernel, "auto" or a key of `ops.attention.TABLE`.
      dtype: of the computation, "float32" or "bfloat16"; parameters, norms and softmax are float32.

    Source: MViTv2 (arXiv:2112.01526), MaskFeat (arXiv:2112.09133) section 4.2; PySlowFast
    slowfast/models/video_model_builder.py.
    """

    width: int
    depth: int
    heads: int
    stages: tuple[int, ...]
    tubelet: Size3 = (2, 32, 32)
    widen_in: str = "mlp"
    kv_stride: int = 8
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    scan: bool | None = None
    remat: bool = False
    attention: str = "auto"
    dtype: str = "float32"

    frozen: ClassVar[tuple[str, ...]] = ()  # all parameters are trained
    class_tokens: ClassVar[int] = 1  # number of tokens before those of the grid
    epsilon: ClassVar[float] = 1e-6  # of the layer norms

    def __post_init__(self) -> None:
        check_sizes(self.width, self.depth, self.heads, self.mlp_ratio)
        blocks = [0, *self.stages, self.depth]
        if any(after <= before for before, after in itertools.pairwise(blocks)):
            raise ValueError(
                f"stages={self.stages} do not increase between 0 and depth={self.depth}"
            )
        halvings = range(len(self.stages) + 1)
        sizes = [(t, PATCH[1] << i, PATCH[2] << i) for t in (PATCH[0], 1) for i in halvings]
        if self.tubelet not in sizes:
            raise ValueError(f"tubelet={self.tubelet} is not one of {', '.join(map(str, sizes))}")
        check_choice("widen_in", self.widen_in, ("mlp", "attention"))
        check_fields(self.drop_path, self.attention, self.dtype)
        super().__post_init__()

    @property
    def patch(self) -> Size3:
        """Frames, rows and columns from one patch to the next."""
        return (self.tubelet[0], *PATCH[1:])

    def patch_grid(self, clip: Sequence[int]) -> Size3:
        """Patches along time, height and width of a clip of `(frames, height, width)`.

        Raises:
          ValueError: the clip is not a whole number of patches.
        """
        return token_grid(clip, self.patch)

    @property
    def q_strides(self) -> tuple[int, ...]:
        """Stride of the queries of each block along height and width."""
        halved = self.stages[: (self.tubelet[1] // PATCH[1]).bit_length() - 1]
        return tuple(2 if block in halved else 1 for block in range(self.depth))

    def grid(self, clip: Sequence[int]) -> Size3:
        """Output tokens along time, height and width of a clip of `(frames, height, width)`.

        Halving an odd side rounds up: 312 pixels are 78, 39, 20 and 10 tokens.

        Raises:
          ValueError: the clip is not a whole number of patches.
        """
        grid = self.patch_grid(clip)
        for stride in self.q_strides:
            grid = pooled_grid(grid, stride)
        return grid

    def fitted(self, clips: Float[Array, "b t h w 3"]) -> Float[Array, "b t y x 3"]:
        """Clips of any height and width, filled up with zeros to whole patches."""
        (height, width), (_, y, x) = clips.shape[2:4], PATCH
        return jnp.pad(clips, ((0, 0), (0, 0), (0, -height % y), (0, -width % x), (0, 0)))

    def shortened(self, depth: int) -> MViT:
        """The encoder up to its block `depth`, counted from 1; its parameters are the same.

        Raises:
          ValueError: this block doubles the width for the next stage.
        """
        if depth in self.stages and self.widen_in == "mlp":
            raise ValueError(f"block {depth - 1} doubles the width for the next stage")
        stages = tuple(stage for stage in self.stages if stage < depth)
        halved = min(len(stages), (self.tubelet[1] // PATCH[1]).bit_length() - 1)
        tubelet = (self.tubelet[0], PATCH[1] << halved, PATCH[2] << halved)
        return self.clone(depth=depth, stages=stages, tubelet=tubelet)

    @nn.compact
    def __call__(
        self,
        clips: Float[Array, "b t h w 3"],
        mask: Bool[Array, "b gt gh gw"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b tokens d"]:
        """Encodes clips.

        Args:
          clips: normalised RGB.
          mask: output tokens whose patches are replaced by the mask token; None for none. As
            patches overlap, visible ones contain up to 3 pixels and one frame of masked ones.
          train: whether drop path is active; needs the rng `dropout`.

        Returns:
          Tokens after the last block: the class token, then the grid, time slowest.

        Raises:
          ValueError: the clip is not a whole number of patches, or the mask is not on its grid.
        """
        dtype, clip = jnp.dtype(self.dtype), clips.shape[1:4]
        grid = self.grid(clip)
        embed = OverlappingPatchEmbed(self.width, self.patch, dtype, name="patch_embed")
        tokens = embed(clips)
        if mask is not None:
            if mask.shape[1:] != grid:
                raise ValueError(f"mask of {mask.shape[1:]} tokens; the clip has {grid}")
            mask_token = self.param("mask_token", NORMAL, (1, 1, self.width))
            hidden = self._mask_of_patches(mask, self.patch_grid(clip))[..., None]
            tokens = jnp.where(hidden, mask_token[:, :, None, None].astype(dtype), tokens)
        b = tokens.shape[0]
        cls_token = self.param("cls_token", NORMAL, (1, 1, self.width)).astype(dtype)
        cls_token = jnp.broadcast_to(cls_token, (b, 1, self.width))
        tokens = jnp.concatenate([cls_token, tokens.reshape(b, -1, self.width)], 1)
        fields = self.block_fields(clip)
        scan = is_scanned(self.scan, self.depth)
        blocks = Blocks(PoolingBlock, fields, self.drop_path, scan, self.remat, name="blocks")
        return blocks(tokens, train=train)

    def _mask_of_patches(self, mask: Array, grid: Size3) -> Array:
        """The mask on the grid of patches, from that on the grid of output tokens."""
        _, height, width = grid
        mask = jnp.repeat(mask, self.tubelet[1] // PATCH[1], 2)
        return jnp.repeat(mask, self.tubelet[2] // PATCH[2], 3)[:, :, :height, :width]

    def block_fields(self, clip: Sequence[int]) -> tuple[dict[str, Any], ...]:
        """Fields of each block for a clip of `(frames, height, width)`."""
        grid = table_grid = self.patch_grid(clip)
        width, heads, kv_stride, fields = self.width, self.heads, self.kv_stride, []
        for i, q_stride in enumerate(self.q_strides):
            heads *= 2 if i in self.stages else 1
            width *= 2 if i + (self.widen_in == "mlp") in self.stages else 1
            kv_stride = max(kv_stride // q_stride, 1)
            fields.append(
                {
                    "width": width,
                    "heads": heads,
                    "grid": grid,
                    "q_stride": q_stride,
                    "kv_stride": kv_stride,
                    "rows": table_rows(table_grid, q_stride, kv_stride),
                    "pool_frames": 1 if self.tubelet[0] == 1 else 3,
                    "widen_in": self.widen_in,
                    "mlp_ratio": self.mlp_ratio,
                    "kernel": self.attention,
                    "dtype": jnp.dtype(self.dtype),
                }
            )
            grid = pooled_grid(grid, q_stride)
            # The originals create tables as if halving an odd side rounded down.
            table_grid = (grid[0], table_grid[1] // q_stride, table_grid[2] // q_stride)
        return tuple(fields)


class OverlappingPatchEmbed(nn.Module):
    """Patch embedding by a convolution whose patches overlap, 3x7x7 for steps of 2x4x4."""

    width: int
    patch: Size3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, clips: Float[Array, "b t h w c"]) -> Float[Array, "b gt gh gw d"]:
        """Embeds every patch."""
        sides = kernel_of(self.patch)
        shape = (*sides, clips.shape[-1], self.width)
        kernel = self.param("kernel", NORMAL, shape)
        bias = self.param("bias", uniform(math.prod(shape[:-1])), (self.width,))
        # Decided when it is compiled: an exported function runs on any device.
        patches = lax.platform_dependent(
            jnp.asarray(clips, self.dtype),
            kernel.astype(self.dtype),
            cpu=functools.partial(products_of_cells, patch=self.patch),
            default=functools.partial(convolution, patch=self.patch),
        )
        return patches + bias.astype(self.dtype)


def convolution(
    clips: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c d"], patch: Size3
) -> Float[Array, "b gt gh gw d"]:
    """The convolution of `OverlappingPatchEmbed`."""
    padding = [(size // 2, size // 2) for size in kernel.shape[:3]]
    dimensions = ("NTHWC", "THWIO", "NTHWC")
    clips, kernel = jnp.asarray(clips), jnp.asarray(kernel)
    return lax.conv_general_dilated(clips, kernel, patch, padding, dimension_numbers=dimensions)


def products_of_cells(
    clips: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c d"], patch: Size3
) -> Float[Array, "b gt gh gw d"]:
    """The same as a sum of matrix products, several times as fast on a CPU.

    Pixels and kernel are split into cells of `patch`; an output is the sum of the products of its
    two cells along each axis.
    """
    cells_of = [min(step, 2) for step in patch]
    grid = token_grid(clips.shape[1:4], patch)
    before = [((n - 1) * step, 0) for n, step in zip(cells_of, patch, strict=True)]
    cells = patchify(jnp.pad(clips, [(0, 0), *before, (0, 0)]), patch)
    missing = [
        (n * step - size, 0) for n, step, size in zip(cells_of, patch, kernel.shape, strict=False)
    ]
    padded = jnp.pad(kernel, [*missing, (0, 0), (0, 0)])
    parts = patchify(padded.reshape(1, *padded.shape[:3], -1), patch)[0]
    parts = parts.reshape(*cells_of, cells.shape[-1], kernel.shape[-1])
    total = jnp.zeros((), jnp.promote_types(clips.dtype, jnp.float32))
    for at in itertools.product(*map(range, cells_of)):
        stop = [i + size for i, size in zip(at, grid, strict=True)]
        some = lax.slice(cells, (0, *at, 0), (len(cells), *stop, cells.shape[-1]))
        total = total + jnp.matmul(some, parts[at], preferred_element_type=total.dtype)
    return total.astype(clips.dtype)


def kernel_of(patch: Size3) -> Size3:
    """Frames, rows and columns of the convolution for steps of `patch`: all but one twice."""
    frames, height, width = (2 * step - 1 for step in patch)
    return frames, height, width


def table_rows(grid: Size3, q_stride: int, kv_stride: int) -> Size3:
    """Rows of the tables of relative positions in time, height and width."""
    frames, *sides = grid
    height, width = (max(side // q_stride, side // kv_stride, 1) for side in sides)
    return 2 * frames - 1, 2 * height - 1, 2 * width - 1
