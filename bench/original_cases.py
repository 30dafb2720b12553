"""The cases of `cases.py` in PySlowFast."""

from __future__ import annotations

import contextlib
import functools
import io
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from bench.originals import original, recipe

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
    for layer in model.hogs:  # autocast would mix types in it, and fail
        layer.forward = torch.autocast(device, enabled=False)(layer.forward)
    loss_of = original("slowfast.models.losses").get_loss_func(config.MODEL.LOSS_FUNC)()
    optimizer = _optimizer(model, config, strong)
    frames = config.DATA.NUM_FRAMES
    cells = (14, 14) if frames == 1 else config.AUG.MASK_WINDOW_SIZE
    clips = torch.randn(batch, 3, *(() if frames == 1 else (frames,)), SIZE, SIZE, device=device)
    rank = torch.rand(batch, math.prod(cells)).argsort(1)
    mask = (rank < round(0.4 * math.prod(cells))).float().view(batch, *cells).to(device)
    autocast = functools.partial(
        torch.autocast, device, torch.bfloat16, enabled=dtype == "bfloat16"
    )

    def forward() -> torch.Tensor:
        predicted, wanted = model([clips, torch.Tensor(), mask])
        return loss_of(predicted, wanted)[0]

    if strong:
        forward = torch.compile(forward)
    parameters = list(model.parameters())

    def once() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss = forward()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.02)
        optimizer.step()
        return loss

    return once, _facts(device)


def fused_attention(self: Any, tokens: torch.Tensor, grid: Any) -> tuple[torch.Tensor, Any]:
    """Attention of PySlowFast's ViT (no pooling, no relative positions) by the fused kernel."""
    b, n, _ = tokens.shape
    q, k, v = self.qkv(tokens).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(q, k, v)
    return self.proj(mixed.transpose(1, 2).reshape(b, n, -1)), grid


def wait(device: str) -> None:
    """Returns when the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def _optimizer(model: torch.nn.Module, config: Any, strong: bool) -> torch.optim.Optimizer:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its groups
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
}
