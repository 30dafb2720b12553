"""timm: `create_model` from a folder, or from a file."""

from __future__ import annotations

from pathlib import Path

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.files import SAFETENSORS, ConvertError
from maskfeat_jax.convert.layouts.timm import documents
from maskfeat_jax.convert.verify.base import Case, Module, Original, Tensor, imported
from maskfeat_jax.models import Features

HINT = "pip install timm"


def build(trained: Pretrained, names: frozenset[str], checkpoint: str = "") -> Module:
    """The model that config.json describes, or would describe."""
    config = documents(trained)["config.json"]
    return imported("timm", HINT).create_model(
        config["architecture"],
        num_classes=config["num_classes"],
        checkpoint_path=checkpoint,
        **config["model_args"],
    )


def read(trained: Pretrained, path: Path, names: frozenset[str]) -> Module:
    """Loads a folder with config.json if there is one, else the file."""
    try:
        if path.suffix == SAFETENSORS and (path.parent / "config.json").exists():
            folder = f"local-dir:{path.parent}"
            model = imported("timm", HINT).create_model(folder, pretrained=True)
        else:
            model = build(trained, names, str(path))
    except (KeyError, RuntimeError, TypeError) as error:
        raise ConvertError(f"{path} does not load in timm: {error}") from error
    if different := names ^ set(model.state_dict()):  # its loader ignores some
        raise ConvertError(f"{path}: only in the file or only in timm: {sorted(different)}")
    return model


def run(model: Module, case: Case) -> Tensor:
    """Logits, or tokens after the norm."""
    features = isinstance(case.trained.model, Features)
    return (model.forward_features if features else model)(case.torch_clips())


TIMM = Original("timm", build, read, run)
