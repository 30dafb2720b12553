"""Files of the teachers of `Features` and `PseudoLabel`: a run, a checkpoint, or of PyTorch."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from maskfeat_jax import convert
from maskfeat_jax.checkpoints.description import fields_of, sections_of
from maskfeat_jax.checkpoints.pretrained import Pretrained, is_ours
from maskfeat_jax.checkpoints.storage import CheckpointError
from maskfeat_jax.files import local_path
from maskfeat_jax.models import VARIANTS
from maskfeat_jax.sections import Section, as_json
from maskfeat_jax.targets import Features, PseudoLabel
from maskfeat_jax.transfer import transfer
from maskfeat_jax.typing import PyTree

# Fields of an encoder that its tokens do not depend on.
FREE = ("attention", "drop_path", "dtype", "kernel_init", "remat", "scan")
# Fields that a PyTorch file may not contain, and that `convert` takes.
HINTS = ("heads", "epsilon", "activation", "tubelet", "kv_stride")


def describe(section: Section) -> Section:
    """Keys of the section of a target: `model`, `clip`, `mean`, `std`, `sha256`.

    Raises:
      ValueError: the file cannot be read, or has another encoder than `model`.
    """
    return _described(section, _read(section["file"], section.get("model") or {}))


def describe_classifier(section: Section) -> Section:
    """As `describe`, and the `classes` of the classifier and their `names`.

    Raises:
      ValueError: likewise; or the file has no classifier, or one of other classes.
    """
    trained = _read(section["file"], section.get("model") or {})
    if "projection" not in trained.params:
        raise ValueError("it has no class head; give the file of a classifier")
    classes = trained.model.num_classes
    if section.get("classes") not in (None, classes):
        raise ValueError(f"it has {classes} classes, but `classes` is {section['classes']}")
    names = section.get("names") or trained.class_names or ()
    return {**_described(section, trained), "classes": classes, "names": names}


def _described(section: Section, trained: Pretrained) -> Section:
    given = section.get("model") or {}
    if assumed := _assumed(trained, section):
        warnings.warn(f"{section['file']}: not in the file, assumed: {assumed}", stacklevel=2)
    fields = as_json(fields_of(trained.model.encoder))
    for key, value in as_json(_expanded(given)).items():
        if key not in FREE and fields.get(key) != value:
            raise ValueError(f"its encoder has {key}={fields.get(key)!r}, but `model` {value!r}")
    if wanted := section.get("projection"):
        outputs = trained.params.get("projection", {}).get("kernel", np.zeros(0)).shape[-1]
        if outputs != wanted:
            raise ValueError(f"projection={wanted}, but its linear map has {outputs} outputs")
    model = sections_of(trained.model)["model"]
    model = {key: value for key, value in model.items() if key not in FREE}
    model |= {"scan": given.get("scan", False)}
    found = {"clip": trained.clip, **dataclasses.asdict(trained.normalise)}
    chosen = {key: section[key] for key in found if section.get(key) is not None}
    return {**found, **chosen, "model": model, "sha256": convert.sha256(section["file"])}


def load(target: Features | PseudoLabel) -> PyTree:
    """Weights as numpy arrays, in the shapes of `target.teacher`.

    Raises:
      ValueError: the file cannot be read, or has another SHA-256 than `target.sha256`.
    """
    trained = _read(target.file, target.model)
    if target.sha256 not in ("", found := convert.sha256(target.file)):
        raise ValueError(f"target.file={target.file!r} has the SHA-256 {found}, not target.sha256")
    if trained.clip != target.clip:
        trained = convert.resized(trained, target.clip)
    return transfer(target.teacher, trained.params, parts=tuple(target.teacher))


def _read(file: str, model: Mapping[str, Any]) -> Pretrained:
    path = local_path(file)
    hints = {key: value for key, value in _expanded(model).items() if key in HINTS}
    try:
        return convert.load(path) if is_ours(path) else convert.load_torch(path, **hints)
    except CheckpointError as error:
        raise ValueError(str(error)) from error


def _assumed(trained: Pretrained, section: Section) -> str:
    """Settings that the tokens depend on, and that neither the file nor the section has."""
    known = {"pool", "decoder_heads", "mask_ratio"}
    known |= {"normalise"} if section.get("mean") and section.get("std") else set()
    assumed = trained.report.assumed if trained.report else ()
    return ", ".join(each for each in assumed if each.partition("=")[0] not in known)


def _expanded(model: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a section `model`, with those of its variant."""
    _, sizes = VARIANTS.get(model.get("encoder", ""), (None, {}))
    fields = {**sizes, **{key: value for key, value in model.items() if key != "encoder"}}
    return {key: tuple(x) if isinstance(x, list) else x for key, x in fields.items()}
