"""Files of the teachers of `Features` and `PseudoLabel`: a run, a checkpoint, or of PyTorch."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from maskfeat_jax import convert
from maskfeat_jax.checkpoints.description import fields_of, sections_of
from maskfeat_jax.checkpoints.pretrained import Pretrained, is_ours
from maskfeat_jax.files import local_path
from maskfeat_jax.models import VARIANTS
from maskfeat_jax.models.classifier import Classifier
from maskfeat_jax.sections import Section, as_json, member
from maskfeat_jax.targets import Features, PseudoLabel
from maskfeat_jax.transfer import transfer
from maskfeat_jax.typing import PyTree

# Fields of an encoder that its tokens do not depend on.
FREE = ("attention", "drop_path", "dtype", "kernel_init", "remat", "scan")
# Fields that a PyTorch file may not contain, and that `convert` takes.
HINTS = ("heads", "epsilon", "activation", "tubelet", "kv_stride")


def describe(section: Section) -> Section:
    """Keys of the section of a target: `model`, `clip`, `mean`, `std`.

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
    classes = _classifier(trained).num_classes
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
    wanted = section.get("projection")
    if wanted and (outputs := _classifier(trained).num_classes) != wanted:
        raise ValueError(f"projection={wanted}, but its linear map has {outputs} outputs")
    model = sections_of(trained.model)["model"]
    model = {key: value for key, value in model.items() if key not in FREE}
    if "scan" in given:
        model["scan"] = given["scan"]
    found = {"clip": trained.clip, **dataclasses.asdict(trained.normalise)}
    chosen = {key: section[key] for key in found if section.get(key) is not None}
    return {**found, **chosen, "model": model}


def load(target: Features | PseudoLabel) -> PyTree:
    """Weights as numpy arrays, in the shapes of `target.teacher`.

    Raises:
      ValueError: the file cannot be read.
    """
    trained = _read(target.file, target.model)
    if trained.clip != target.clip:
        trained = convert.resized(trained, target.clip)
    return transfer(target.teacher, trained.params, parts=tuple(target.teacher))


def _read(file: str, model: Mapping[str, Any]) -> Pretrained:
    path = local_path(file)
    hints = {key: value for key, value in _expanded(model).items() if key in HINTS}
    return convert.load(path) if is_ours(path) else convert.load_torch(path, **hints)


def _classifier(trained: Pretrained) -> Classifier:
    """The model, whose norm and linear map follow the encoder; probes have more between them."""
    if not isinstance(trained.model, Classifier):
        raise ValueError(
            f"it has no class head, but is a {type(trained.model).__name__}; give the file of a "
            "classifier, such as a fine-tuned run"
        )
    return trained.model


def _assumed(trained: Pretrained, section: Section) -> str:
    """Settings that the tokens depend on, and that neither the file nor the section has."""
    known = {"pool", "decoder_heads", "mask_ratio"}
    known |= {"normalise"} if section.get("mean") and section.get("std") else set()
    assumed = trained.report.assumed if trained.report else ()
    return ", ".join(each for each in assumed if each.partition("=")[0] not in known)


def _expanded(model: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a section `model`, with those of its variant."""
    sizes: Mapping[str, Any] = {}
    if "encoder" in model:
        _, sizes = member("model.encoder", VARIANTS, model["encoder"])
    fields = {**sizes, **{key: value for key, value in model.items() if key != "encoder"}}
    return {key: tuple(x) if isinstance(x, list) else x for key, x in fields.items()}
