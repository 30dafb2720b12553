"""Floating-point operations of a training step, by formula, and peak performance of devices."""

from __future__ import annotations

import math

import flax.linen as nn

from maskfeat_jax.models.boxes import BoxClassifier
from maskfeat_jax.models.classifier import Classifier
from maskfeat_jax.models.mae import MAE
from maskfeat_jax.models.maskfeat import MaskFeat
from maskfeat_jax.models.mvit import MViT, kernel_of
from maskfeat_jax.models.pooling_attention import pooled_grid
from maskfeat_jax.models.probes import AttentiveProbe, LinearProbe
from maskfeat_jax.models.vit import ViT
from maskfeat_jax.ops.patches import Size3

# Dense bfloat16 products, operations per second, from the vendors' data sheets (NVIDIA: half of the
# number "with sparsity"; Google Cloud: "peak compute per chip"); the first match counts.
PEAKS = {
    "NVIDIA H200": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v6 lite": 918e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Peak operations per second of a device in bfloat16; None if unknown."""
    return next((peak for name, peak in PEAKS.items() if device_kind.startswith(name)), None)


def training_flops(model: nn.Module, clip: Size3) -> float:
    """Operations per clip of a training step: matrix products only, a multiply-add counts as two.

    The backward pass counts as two forward passes, except that a frozen encoder has none.
    Recomputation (`remat`, and attention weights by the kernels that do not store them), pooling,
    the look-ups of relative positions, what is computed for each box of a `BoxClassifier`, targets
    and optimiser do not count.

    Args:
      model: encoder and head; of a masked autoencoder, its field `visible` counts.
      clip: frames, height and width of a clip, pixels.

    Raises:
      ValueError: the model has no training step, such as `Features`.
    """
    encoder = model.encoder
    if isinstance(model, MAE):
        return 6.0 * _mae(model, clip)
    tokens, width = math.prod(encoder.grid(clip)), output_width(encoder)
    if isinstance(model, MaskFeat):
        return 6.0 * (encoder_products(encoder, clip) + tokens * width * model.dim)
    if isinstance(model, Classifier):
        return 6.0 * (encoder_products(encoder, clip) + width * model.num_classes)
    if isinstance(model, BoxClassifier):
        return 6.0 * encoder_products(encoder, clip)
    if isinstance(model, (AttentiveProbe, LinearProbe)):
        head = width * model.num_classes
        if isinstance(
            model, AttentiveProbe
        ):  # keys and values; one query with its projections and MLP
            head += tokens * 2 * width * (width + 1) + 10 * width**2
        return 2.0 * encoder_products(encoder, clip) + 6.0 * head
    raise ValueError(f"{type(model).__name__} is not trained")


def encoder_products(encoder: nn.Module, clip: Size3) -> int:
    """Multiply-adds per clip of the forward pass of an encoder, on all tokens."""
    if isinstance(encoder, ViT):
        return _vit(encoder, math.prod(encoder.grid(clip)))
    assert isinstance(encoder, MViT)
    return _mvit(encoder, clip)


def output_width(encoder: nn.Module) -> int:
    """Width of an encoder's output tokens; each stage of an MViT doubles it."""
    return encoder.width * (1 if isinstance(encoder, ViT) else 2 ** len(encoder.stages))


def _vit(encoder: ViT, tokens: int) -> int:
    """Embedding and blocks, for a number of grid tokens."""
    embed = tokens * 3 * math.prod(encoder.tubelet) * encoder.width
    all_tokens = tokens + encoder.class_tokens
    return embed + _blocks(all_tokens, encoder.width, encoder.depth, encoder.mlp_ratio)


def _mae(model: MAE, clip: Size3) -> int:
    encoder, grid = model.encoder, math.prod(model.encoder.grid(clip))
    encoded = model.visible + (model.class_token == "encoder")
    embed = encoded * encoder.width * model.width
    all_tokens = grid + (model.class_token != "none")
    decode = _blocks(all_tokens, model.width, model.depth, encoder.mlp_ratio)
    return _vit(encoder, model.visible) + embed + decode + grid * model.width * model.dim


def _blocks(tokens: int, width: int, depth: int, mlp_ratio: float) -> int:
    """`depth` blocks of a ViT; `tokens` includes the class token."""
    linear = tokens * width * (4 * width + 2 * int(width * mlp_ratio))
    return depth * (linear + 2 * tokens**2 * width)


def _mvit(encoder: MViT, clip: Size3) -> int:
    width = encoder.width
    products = math.prod(encoder.patch_grid(clip)) * 3 * math.prod(kernel_of(encoder.patch)) * width
    for block in encoder.block_fields(clip):
        outer = block["width"]
        inner = width if block["widen_in"] == "mlp" else outer
        tokens = 1 + math.prod(block["grid"])
        queries, keys = (
            1 + math.prod(pooled_grid(block["grid"], block[stride]))
            for stride in ("q_stride", "kv_stride")
        )
        hidden = int(inner * encoder.mlp_ratio)
        # Where the width grows, the residual is a linear map of the same input as the layer that
        # widens.
        residual = (outer > width) * width * outer * (queries if inner == width else tokens)
        linear = inner**2 + hidden * (inner + outer) + 2 * keys * inner
        products += tokens * 3 * width * inner + queries * linear + residual
        width = outer
    return products
