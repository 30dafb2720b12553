"""Floating-point operations of a training step, and what devices can do at best."""

from __future__ import annotations

import math

from maskfeat_jax.models.vit import ViT

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


def vit_training_flops(encoder: ViT, clip: tuple[int, int, int], head_dim: int) -> float:
    """Operations of one clip in one training step: products only, a multiply-add is two.

    The backward pass counts twice the forward pass; recomputation does not count.

    Args:
      encoder: the encoder.
      clip: frames, height and width of a clip, pixels.
      head_dim: numbers that the head predicts for each token.
    """
    d = encoder.width
    grid = math.prod(size // part for size, part in zip(clip, encoder.tubelet, strict=True))
    tokens = grid + 1  # class token
    embed = grid * 3 * math.prod(encoder.tubelet) * d
    linear = tokens * d * (4 * d + 2 * int(d * encoder.mlp_ratio))
    attention = 2 * tokens**2 * d
    forward = embed + encoder.depth * (linear + attention) + grid * d * head_dim
    return 3 * 2.0 * forward
