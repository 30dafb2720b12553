"""torchvision: its `MViT`, with a list of blocks as argument."""

from __future__ import annotations

from typing import Any

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.verify import base
from maskfeat_jax.convert.verify.base import Case, Module, Original, Tensor

KERNEL = [3, 3, 3]


def build(trained: Pretrained, names: frozenset[str]) -> Module:
    """`mvit_v2_s` with other sizes; for MaskFeat, another layer doubles the width."""
    mvit = base.imported("torchvision.models.video.mvit", "pip install torchvision")
    encoder, (frames, height, width) = trained.model.encoder, trained.clip
    width_in, blocks = encoder.width, []
    for block in encoder.block_fields(trained.clip):
        q, kv = block["q_stride"], block["kv_stride"]
        strides: dict[str, Any] = {"stride_q": [1, q, q], "stride_kv": [1, kv, kv]}
        sizes = {"input_channels": width_in, "output_channels": block["width"]}
        kernels = {"kernel_q": KERNEL, "kernel_kv": KERNEL}
        blocks.append(mvit.MSBlockConfig(block["heads"], **sizes, **kernels, **strides))
        width_in = block["width"]
    return mvit.MViT(
        (height, width),
        frames,
        blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=encoder.widen_in == "attention",
        num_classes=trained.model.num_classes,
    )


def run(model: Module, case: Case) -> Tensor:
    """Logits of the class token; its forward pass has no mean, which is taken here."""
    tokens = base.outputs_of(model.blocks[-1])
    logits = model(case.torch_clips())
    if case.trained.model.pool == "class":
        return logits
    return model.head(model.norm(tokens[0][0][:, 1:].mean(1)))


TORCHVISION = Original("torchvision", build, base.read_strictly(build), run)
