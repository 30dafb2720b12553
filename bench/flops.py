"""Floating-point operations of a training step, and what devices can do at best."""

from __future__ import annotations

import math

from maskfeat_jax.models.mvit import KERNEL, MViT, patch_grid
from maskfeat_jax.models.pooling_attention import pooled_grid
from maskfeat_jax.models.vit import ViT
from maskfeat_jax.ops.patches import Size3

# Dense bf16 products, operations per second, from the makers' data sheets (NVIDIA: half of the
# number "with sparsity"; Google Cloud: "peak compute per chip").
PEAKS = {
    "NVIDIA H200": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,  # v5p
}


def peak_flops(device_kind: str) -> float | None:
    """Operations per second of a device, None where we do not know it."""
    return next((peak for name, peak in PEAKS.items() if device_kind.startswith(name)), None)


def training_flops(encoder: ViT | MViT, clip: Size3, head_dim: int) -> float:
    """Operations of one clip in one training step: products only, a multiply-add is two.

    The backward pass counts twice the forward pass; recomputation does not count. Pooling and the
    table look-ups of relative positions are not products.

    Args:
      encoder: the encoder.
      clip: frames, height and width of a clip, pixels.
      head_dim: numbers that the head predicts for each token.
    """
    forward = _vit if isinstance(encoder, ViT) else _mvit
    return 3 * 2.0 * forward(encoder, clip, head_dim)


def _vit(encoder: ViT, clip: Size3, head_dim: int) -> int:
    d = encoder.width
    grid = math.prod(encoder.grid(clip))
    tokens = grid + 1  # class token
    embed = grid * 3 * math.prod(encoder.tubelet) * d
    linear = tokens * d * (4 * d + 2 * int(d * encoder.mlp_ratio))
    attention = 2 * tokens**2 * d
    return embed + encoder.depth * (linear + attention) + grid * d * head_dim


def _mvit(encoder: MViT, clip: Size3, head_dim: int) -> int:
    """Of an encoder that widens in its MLPs."""
    width = encoder.width
    forward = math.prod(patch_grid(clip)) * 3 * math.prod(KERNEL) * width
    for block in encoder.block_fields(clip):
        outer = block["width"]
        tokens = 1 + math.prod(block["grid"])
        queries, keys = (
            1 + math.prod(pooled_grid(block["grid"], block[stride]))
            for stride in ("q_stride", "kv_stride")
        )
        hidden = int(width * encoder.mlp_ratio)
        linear = width**2 + hidden * (width + outer) + (outer > width) * width * outer
        forward += tokens * 3 * width**2 + queries * (linear + 2 * keys * width)
        width = outer
    return forward + math.prod(encoder.grid(clip)) * width * head_dim
