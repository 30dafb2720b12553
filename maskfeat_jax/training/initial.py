"""The initial parameters of a run: random, or from another run or a PyTorch file."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from maskfeat_jax import class_names
from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints.description import fields_of, sections_of
from maskfeat_jax.checkpoints.pretrained import (
    Pretrained,
    class_names_of,
    is_ours,
    is_run,
    load_params,
    workdir_of,
)
from maskfeat_jax.convert import load, resized
from maskfeat_jax.files import local_path
from maskfeat_jax.models.boxes import BoxClassifier
from maskfeat_jax.models.probes import ENCODER
from maskfeat_jax.sections import Section, as_json
from maskfeat_jax.tasks import Task
from maskfeat_jax.transfer import TransferError, transfer
from maskfeat_jax.workdir.workdir import read_recipe

BY = ("name", "number")
HEAD = "projection"  # top-level key of the linear map to the classes, in every classifier


class InitFrom(NamedTuple):
    """Source of initial parameters: the keys `init_…` of the section `model`.

    Attributes:
      path: work directory, checkpoint or PyTorch file; empty for random parameters.
      parts: top-level keys of the parameters to take from it; None for all.
      resize: adapt the parameters of another clip size, also of images to videos and back.
      classes: how the classes of a classifier are matched with those of the data: by "name"; or by
        "number", whatever their names.
    """

    path: str = ""
    parts: tuple[str, ...] | None = None
    resize: bool = False
    classes: str = "name"

    @classmethod
    def of(
        cls,
        init_from: str = "",
        init_parts: tuple[str, ...] | None = None,
        init_resize: bool = False,
        init_classes: str = "name",
    ) -> InitFrom:
        """Made from the keys of the section `model`; raises ValueError for a wrong one."""
        if init_classes not in BY:
            raise ValueError(f"init_classes={init_classes!r}: expected {' or '.join(BY)}")
        path = str(local_path(init_from)) if init_from else ""
        return cls(path, init_parts, init_resize, init_classes)

    def check_classes(self, names: Sequence[str]) -> None:
        """Checks before anything is read that the classes of a checkpoint are those of the data.

        Raises:
          TransferError: they are not.
          CheckpointError: the checkpoint cannot be read.
        """
        if self.path and is_ours(self.path) and (self.parts is None or HEAD in self.parts):
            _order(self, class_names_of(self.path), names)


def initial_params(
    task: Task, seed: int, source: InitFrom, names: Sequence[str] | None = None
) -> Any:
    """Random parameters on the host, replaced by those of `source` if it has a path.

    Args:
      task: its model is initialised.
      seed: of the random parameters.
      source: of the other parameters.
      names: class names of the data; None for a model that predicts no classes.

    Raises:
      TransferError: the parameters of `source` do not fit the model, or its classes the data.
      CheckpointError, ConvertError: `source` cannot be read.
    """
    fresh = jax.device_get(jax.jit(task.init)(jax.random.key(seed)))
    if not source.path:
        return fresh
    parts = tuple(fresh) if source.parts is None else source.parts
    frozen = source.parts is None or {*ENCODER} <= {*task.model.frozen}
    if is_run(source.path) and not source.resize:
        _check_same_network(read_recipe(workdir_of(source.path)), task, parts, frozen)
        weights = load_params(source.path)
        params, theirs = weights.evaluated, weights.class_names
    else:
        loaded = load(source.path)
        if assumed := _assumed(loaded):
            warnings.warn(
                f"{source.path}: not in the file, assumed: {', '.join(loaded.report.assumed)}; "
                "where the recipe says otherwise, it decides",
                stacklevel=2,
            )
        if HEAD in parts and (own := _head_of(task.model).keys() & assumed):
            loaded = load(source.path, **{name: _head_of(task.model)[name] for name in own})
        if source.resize:
            loaded = resized(loaded, task.clip, task.model.encoder)
        _check_same_network(_known_settings(loaded), task, parts, frozen)
        params, theirs = loaded.params, loaded.class_names
    if names is not None and HEAD in parts:
        params = with_classes(params, source, theirs, names)
    return transfer(fresh, params, parts=parts)


def with_classes(
    params: Any, source: InitFrom, known: Sequence[str] | None, names: Sequence[str]
) -> Any:
    """Parameters of a classifier with its classes in the order of those of the data.

    Args:
      params: of `source`.
      source: says how classes are matched.
      known: class names of the checkpoint; None if it does not hold them.
      names: class names of the data.

    Raises:
      TransferError: the classes are not the same.
    """
    order, head = _order(source, known, names), params.get(HEAD, {})
    if {value.shape[-1] for value in head.values()} != {len(order)}:
        return params  # `transfer` reports the shapes
    return {**params, HEAD: {key: value[..., order] for key, value in head.items()}}


def _order(source: InitFrom, known: Sequence[str] | None, names: Sequence[str]) -> np.ndarray:
    """The class of the checkpoint that each class of the data is, by number."""
    if source.classes == "name" and known is not None:
        try:
            return class_names.order_of(known, names, owner="the checkpoint", wanted_by="the data")
        except class_names.ClassesDiffer as error:
            hint = ". If class k of one is class k of the other, whatever their names, set "
            by_number = f"{hint}model.init_classes=number" if len(known) == len(names) else ""
            raise TransferError(f"model.init_from={source.path}: {error}{by_number}") from error
    order = class_names.numbers_of(names)
    if known is not None and len(known) == len(names):  # `transfer` reports other lengths
        order = np.argsort(class_names.numbers_of(known))[order]
    if source.classes == "name":
        first = ", ".join(f"{k} as {name!r}" for k, name in zip(order[:3], names, strict=False))
        warnings.warn(
            f"{source.path} does not hold the names of its classes: they are taken by number, "
            f"{first}, .... If that is so, set model.init_classes=number",
            stacklevel=2,
        )
    return order


def _check_same_network(known: Section, task: Task, parts: tuple[str, ...], frozen: bool) -> None:
    """Checks settings that do not show in the shapes of parameters.

    Args:
      known: settings of the checkpoint, in the sections of a recipe.
      task: has other settings, perhaps.
      parts: top-level keys of the parameters that are taken.
      frozen: whether the encoder stays as it is, so that it needs the same pixels.

    Raises:
      TransferError: a setting differs.
    """
    keys = {"model": ["heads", "kv_stride", "widen_in", "epsilon"]}
    if HEAD in parts or frozen:
        keys["model"] += ["tubelet", "class_token"]
    if HEAD in parts:
        keys["head"] = ["name", "pool", "norm_of", "heads", "last_epsilon", "bins"]
    if frozen:
        keys["normalise"] = ["mean", "std"]
    sections = _sections_of(task.model, task.normalise)
    for section, names in keys.items():
        for name in names:
            theirs, ours = (as_json(each.get(section, {}).get(name)) for each in (known, sections))
            if None not in (theirs, ours) and theirs != ours:
                raise TransferError(
                    f"{section}.{name}={ours!r}, but the model of model.init_from has {theirs!r}"
                )


def _sections_of(model: Any, normalise: Normalise) -> dict[str, dict[str, Any]]:
    return {
        "model": fields_of(model.encoder),
        "head": sections_of(model)["head"],
        "normalise": dataclasses.asdict(normalise),
    }


def _head_of(model: Any) -> dict[str, Any]:
    """Settings that a file may not hold and others follow from, as arguments of `load`."""
    boxes = isinstance(model, BoxClassifier)
    return {"head": "boxes" if boxes else "classifier", "pool": getattr(model, "pool", None)}


def _known_settings(loaded: Pretrained) -> Section:
    """Settings of a model, without those that its file does not hold: there the recipe decides."""
    assumed = _assumed(loaded)
    sections = _sections_of(loaded.model, loaded.normalise)
    return {
        section: {key: x for key, x in fields.items() if not {section, key} & assumed}
        for section, fields in sections.items()
    }


def _assumed(loaded: Pretrained) -> set[str]:
    """Names of the settings that the file does not hold."""
    return {each.partition("=")[0] for each in loaded.report.assumed} if loaded.report else set()
