"""Floating-point operations of a training step, and what devices can do at best."""

from __future__ import annotations

import math

from maskfeat_jax.models.mae import MAE
from maskfeat_jax.models.maskfeat import MaskFeat
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


def training_flops(model: MaskFeat | MAE, clip: Size3) -> float:
    """Operations of one clip in one training step: products only, a multiply-add is two.

    The backward pass counts twice the forward pass; recomputation does not count. Pooling and the
    table look-ups of relative positions are not products.

    Args:
      model: encoder and head; what is visible to a masked autoencoder is a field of it.
      clip: frames, height and width of a clip, pixels.
    """
    encoder = model.encoder
    if isinstance(model, MAE):
        forward = _mae(model, clip)
    elif isinstance(encoder, ViT):
        tokens = math.prod(encoder.grid(clip))
        forward = _vit(encoder, tokens) + tokens * encoder.width * model.dim
    else:
        forward = _mvit(encoder, clip, model.dim)
    return 3 * 2.0 * forward


def _vit(encoder: ViT, tokens: int) -> int:
    """Embedding and blocks, where so many tokens of the grid are computed."""
    embed = tokens * 3 * math.prod(encoder.tubelet) * encoder.width
    return embed + _blocks(tokens + 1, encoder.width, encoder.depth, encoder.mlp_ratio)


def _mae(model: MAE, clip: Size3) -> int:
    encoder, grid = model.encoder, math.prod(model.encoder.grid(clip))
    handed = model.visible + (model.class_token == "encoder")
    embed = handed * encoder.width * model.width
    decode = _blocks(grid + 1, model.width, model.depth, encoder.mlp_ratio)
    return _vit(encoder, model.visible) + embed + decode + grid * model.width * model.dim


def _blocks(tokens: int, width: int, depth: int, mlp_ratio: float) -> int:
    """Of as many blocks of a ViT; the class token is among the tokens."""
    linear = tokens * width * (4 * width + 2 * int(width * mlp_ratio))
    return depth * (linear + 2 * tokens**2 * width)


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
