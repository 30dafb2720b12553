"""PySlowFast: its checkout on PYTHONPATH, and what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.layouts.pyslowfast import settings
from maskfeat_jax.convert.trained import Trained
from maskfeat_jax.convert.verify.base import (
    Case,
    Module,
    Original,
    Tensor,
    imported,
    mask_ratio,
    read_strictly,
    square,
)
from maskfeat_jax.models import MAE, MaskFeat

HINT = "put a checkout of github.com/facebookresearch/SlowFast on PYTHONPATH, with its packages"
OLD = "pred_head.transforms.0.0.attn.q.weight"


def build(trained: Trained, names: frozenset[str]) -> Module:
    """Of the settings that are written into a checkpoint."""
    square(trained)
    if OLD in names:
        raise ConvertError(
            "PySlowFast has no decoder with separate queries, keys and values, which this file has "
            "(as the published ones of mae_st): nothing loads it strictly; its encoder has been "
            "read, and is the same"
        )
    config = imported("slowfast.config.defaults", HINT).get_cfg()
    _set(config, settings(trained, separate="blocks.0.attn.q.weight" in names))
    _set(config, {"NUM_GPUS": 0, "MVIT": {"DROPPATH_RATE": 0.0}})
    if isinstance(trained.model, MAE):
        _set(config, {"AUG": {"MASK_RATIO": mask_ratio(trained)}})
    if isinstance(trained.model, MaskFeat | MAE):
        return imported("slowfast.models.masked", HINT).MaskMViT(config)
    return imported("slowfast.models.video_model_builder", HINT).MViT(config)


def run(model: Module, case: Case) -> Tensor:
    """Predictions of the masked tokens, or logits, of which it gives the softmax."""
    clips, ours = case.torch_clips(), case.trained.model
    if isinstance(ours, MAE):
        case.draw_same_noise()
        return model([clips])[0][0]
    if isinstance(ours, MaskFeat):
        mask = case.torch_mask().float().unflatten(1, case.mask.shape[1:])
        mask = mask[:, 0] if clips.ndim == 4 else mask
        return model([clips, None, mask])[0][0]
    logits: list[Tensor] = []
    model.head.projection.register_forward_hook(lambda module, i, output: logits.append(output))
    model([clips])
    return logits[0]


def _set(config: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _set(getattr(config, name), value)
        else:
            setattr(config, name, value)


PYSLOWFAST = Original("PySlowFast", build, read_strictly(build, "model_state"), run)
