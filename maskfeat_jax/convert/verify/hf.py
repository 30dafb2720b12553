"""transformers: `from_pretrained` of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.files import ConvertError, require_torch
from maskfeat_jax.convert.layouts.hf import documents
from maskfeat_jax.convert.verify.base import Case, Module, Original, Tensor, imported
from maskfeat_jax.models import MAE, Features

HINT = "pip install transformers"


def build(trained: Pretrained, names: frozenset[str]) -> Module:
    """The model of the config.json that export writes."""
    transformers = imported("transformers", HINT)
    document = dict(documents(trained)["config.json"])
    config = transformers.AutoConfig.for_model(document.pop("model_type"), **document)
    return _class(trained).from_config(config, **_without_pooler(trained, names))


def read(trained: Pretrained, path: Path, names: frozenset[str]) -> Module:
    """The model in the folder of the file, which must have a config.json."""
    arguments = {"output_loading_info": True, "local_files_only": True}
    try:
        model, info = _class(trained).from_pretrained(
            path.parent, **arguments, **_without_pooler(trained, names)
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConvertError(f"{path.parent} does not load in transformers: {error}") from error
    if problems := {kind: sorted(names) for kind, names in info.items() if names}:
        raise ConvertError(f"{path.parent} does not load in transformers: {problems}")
    return model


def _without_pooler(trained: Pretrained, names: frozenset[str]) -> dict[str, Any]:
    """Arguments that leave out the pooler of an encoder if the file has none."""
    if not isinstance(trained.model, Features) or any("pooler." in name for name in names):
        return {}
    return {"add_pooling_layer": False}


def _class(trained: Pretrained) -> Any:
    """The class that finds the architecture in config.json."""
    transformers = imported("transformers", HINT)
    if isinstance(trained.model, MAE):
        return transformers.AutoModelForPreTraining
    if isinstance(trained.model, Features):
        return transformers.AutoModel
    if trained.model.encoder.class_token:
        return transformers.AutoModelForImageClassification
    return transformers.AutoModelForVideoClassification


def run(model: Module, case: Case) -> Tensor:
    """Predictions, logits, or tokens after the norm."""
    video = not case.trained.model.encoder.class_token
    pixels = case.torch_clips(channels=2 if video else 1)
    if not isinstance(case.trained.model, MAE):
        output = model(pixels)
        features = isinstance(case.trained.model, Features)
        return output.last_hidden_state if features else output.logits
    torch, mask = require_torch("to run an original"), case.torch_mask()
    if video:
        return model(pixels, bool_masked_pos=mask).logits.flatten(0, 1)
    return model(pixels, noise=torch.from_numpy(case.noise)).logits[mask]


HF = Original("transformers", build, read, run)
