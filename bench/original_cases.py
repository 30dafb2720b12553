"""The cases of `cases.py`, implemented with PySlowFast and mae_st."""

from __future__ import annotations

import contextlib
import functools
import io
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from bench.originals import mae_st, original, recipe

Once = Callable[[], Any]
Facts = dict[str, Any]

SIZE = 224  # pixels
K400_MVIT = "masked_ssl/k400_MVITv2"


def hog_case(batch: int, dtype: str, device: str, strong: bool) -> tuple[Once, Facts]:
    """`HOGLayerC`, which computes in float32."""
    layer = original("slowfast.models.operators").HOGLayerC(nbins=9, pool=8).to(device)
    images = torch.randn(batch, 3, SIZE, SIZE, device=device)
    run = torch.compile(layer) if strong else layer

    @torch.no_grad()
    def once() -> Any:
        return run(images)

    return once, _facts(device)


def maskfeat_case(
    settings: str, batch: int, dtype: str, device: str, strong: bool
) -> tuple[Once, Facts]:
    """A whole step: targets and loss, gradients, clipping, AdamW; clips and masks are given."""
    config = recipe(settings)
    if strong and not config.MVIT.REL_POS_SPATIAL:
        original("slowfast.models.attention").MultiScaleAttention.forward = fused_attention
    model = original("slowfast.models.masked").MaskMViT(config).to(device).train()
    for layer in model.hogs:  # fails with the mixed dtypes of autocast
        layer.forward = torch.autocast(device, enabled=False)(layer.forward)
    loss_of = original("slowfast.models.losses").get_loss_func(config.MODEL.LOSS_FUNC)()
    optimizer = _optimizer(model, config, strong)
    frames = config.DATA.NUM_FRAMES
    cells = (14, 14) if frames == 1 else config.AUG.MASK_WINDOW_SIZE
    clips = torch.randn(batch, 3, *(() if frames == 1 else (frames,)), SIZE, SIZE, device=device)
    rank = torch.rand(batch, math.prod(cells)).argsort(1)
    mask = (rank < round(0.4 * math.prod(cells))).float().view(batch, *cells).to(device)

    def forward() -> torch.Tensor:
        predicted, target = model([clips, torch.Tensor(), mask])
        return loss_of(predicted, target)[0]

    return _step(model, forward, optimizer, dtype, device, strong)


def mae_case(size: str, batch: int, dtype: str, device: str, strong: bool) -> tuple[Once, Facts]:
    """A whole step: masks, targets and loss, gradients, clipping, AdamW; clips are given."""
    if strong:
        mae_st("util.video_vit").Attention.forward = fused_attention_of_mae
    flags = {"sep_pos_embed": True, "cls_embed": True, "norm_pix_loss": True}
    build = getattr(mae_st("models_mae"), f"mae_vit_{size}_patch16")
    model = build(num_frames=16, t_patch_size=2, decoder_depth=4, **flags).to(device).train()
    groups = [
        {"params": [p for p in model.parameters() if (p.ndim > 1) == decayed], "weight_decay": rate}
        for decayed, rate in ((True, 0.05), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=2e-4, betas=(0.9, 0.95), fused=strong or None)
    clips = torch.randn(batch, 3, 16, SIZE, SIZE, device=device)

    def forward() -> torch.Tensor:
        return model(clips, mask_ratio=0.9)[0]

    return _step(model, forward, optimizer, dtype, device, strong)


def _step(
    model: torch.nn.Module,
    forward: Callable[[], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    dtype: str,
    device: str,
    strong: bool,
) -> tuple[Once, Facts]:
    """A training step, from the loss of `forward` to updated parameters."""
    parameters = list(model.parameters())
    if strong:
        forward = torch.compile(forward)

    def once() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = forward()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.02)
        optimizer.step()
        return loss

    return once, _facts(device)


def fused_attention(self: Any, tokens: torch.Tensor, grid: Any) -> tuple[torch.Tensor, Any]:
    """Attention of PySlowFast's ViT (no pooling, no relative positions) with the fused kernel."""
    b, n, _ = tokens.shape
    q, k, v = self.qkv(tokens).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(q, k, v)
    return self.proj(mixed.transpose(1, 2).reshape(b, n, -1)), grid


def fused_attention_of_mae(self: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Attention of mae_st, which has three linear layers, with the fused kernel."""
    maps = (self.q, self.k, self.v)
    qkv = (f(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for f in maps)
    mixed = functional.scaled_dot_product_attention(*qkv)
    return self.proj(mixed.transpose(1, 2).flatten(2))


def wait(device: str) -> None:
    """Waits until the device is idle."""
    if device == "cuda":
        torch.cuda.synchronize()


def _optimizer(model: torch.nn.Module, config: Any, strong: bool) -> torch.optim.Optimizer:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its parameter groups
        optimizer = original("slowfast.models.optimizer").construct_optimizer(model, config)
    if not strong:
        return optimizer
    groups = [
        {name: group[name] for name in ("params", "weight_decay")}
        for group in optimizer.param_groups
    ]
    return torch.optim.AdamW(groups, lr=2e-4, fused=True)


def _facts(device: str) -> Facts:
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return {"framework": f"torch {torch.__version__}", "device": name}


CASES: dict[str, Callable[[int, str, str, bool], tuple[Once, Facts]]] = {
    "hog": hog_case,
    "vit_b": functools.partial(maskfeat_case, "masked_ssl/in1k_VIT_B_MaskFeat_PT.yaml"),
    "vit_l": functools.partial(maskfeat_case, "masked_ssl/in1k_VIT_L_MaskFeat_PT.yaml"),
    "mvit_s": functools.partial(maskfeat_case, f"{K400_MVIT}_S_16x4_MaskFeat_PT.yaml"),
    "mvit_l": functools.partial(maskfeat_case, f"{K400_MVIT}_L_16x4_MaskFeat_PT.yaml"),
    "mae_b": functools.partial(mae_case, "base"),
    "mae_l": functools.partial(mae_case, "large"),
}
