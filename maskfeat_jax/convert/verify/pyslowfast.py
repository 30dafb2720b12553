"""PySlowFast: needs its checkout on PYTHONPATH, and its packages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.files import require_torch
from maskfeat_jax.convert.layouts.pyslowfast import settings
from maskfeat_jax.convert.verify import base
from maskfeat_jax.convert.verify.base import Case, Module, Original, Tensor, imported
from maskfeat_jax.models import MAE, BoxClassifier, MaskFeat

HINT = "put a checkout of github.com/facebookresearch/SlowFast on PYTHONPATH, with its packages"
OF_DECODER = re.compile(r"(pred_head\..*\.attn\.)q(\.weight|\.bias)")


def build(trained: Pretrained, names: frozenset[str]) -> Module:
    """The model of the settings that export writes."""
    base.square(trained)
    config = imported("slowfast.config.defaults", HINT).get_cfg()
    _set(config, settings(trained, separate="blocks.0.attn.q.weight" in names))
    _set(config, {"NUM_GPUS": 0, "MVIT": {"DROPPATH_RATE": 0.0}})
    if isinstance(trained.model, MAE):
        _set(config, {"AUG": {"MASK_RATIO": base.mask_ratio(trained)}})
    if isinstance(trained.model, MaskFeat | MAE):
        return imported("slowfast.models.masked", HINT).MaskMViT(config)
    return imported("slowfast.models.video_model_builder", HINT).MViT(config)


def read(trained: Pretrained, path: Path, names: frozenset[str]) -> Module:
    """Loads a file strictly, after joining queries, keys and values of the decoder's blocks.

    The published files of mae_st have three linear maps there; public versions of PySlowFast one.
    """
    state = dict(base.tensors_of(path, "model_state", prefix=base.prefix_of(trained)))
    torch = require_torch(f"to read {path.name}")
    for match in filter(None, map(OF_DECODER.fullmatch, list(state))):
        tensors = [state.pop(f"{match[1]}{name}{match[2]}") for name in "qkv"]
        state[f"{match[1]}qkv{match[2]}"] = torch.cat(tensors)
    return base.load_strictly(build(trained, names), state, path)


def run(model: Module, case: Case) -> Tensor:
    """Predictions of the masked tokens, or logits, whose softmax the model returns."""
    clips, ours = case.torch_clips(), case.trained.model
    if isinstance(ours, MAE):
        case.draw_same_noise()
        return model([clips])[0][0]
    if isinstance(ours, MaskFeat):
        mask = case.torch_mask().float().unflatten(1, case.mask.shape[1:])
        mask = mask[:, 0] if clips.ndim == 4 else mask
        return model([clips, None, mask])[0][0]
    logits = base.outputs_of(model.head.projection)
    if isinstance(ours, BoxClassifier):
        model([clips], case.torch_boxes())
        return logits[0].unflatten(0, case.boxes.shape[:2])
    model([clips])
    return logits[0]


def _set(config: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _set(getattr(config, name), value)
        else:
            setattr(config, name, value)


PYSLOWFAST = Original("PySlowFast", build, read, run)
