"""Writes models of this package as PyTorch checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskfeat_jax.checkpoints.description import sections_of
from maskfeat_jax.checkpoints.pretrained import Params, Pretrained, save_params, write_description
from maskfeat_jax.checkpoints.trees import Name, named_leaves
from maskfeat_jax.convert import files
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.importing import backbone, computed, encoder_alone
from maskfeat_jax.convert.layouts import Form, Layout
from maskfeat_jax.convert.rules import rule_of, table
from maskfeat_jax.convert.source import layout_of
from maskfeat_jax.files import local_path, write_atomically
from maskfeat_jax.models import MAE, BoxClassifier, Features, MaskFeat, MViT
from maskfeat_jax.models.layers import unstack_blocks

State = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Export:
    """A model as a state dict in a layout."""

    trained: Pretrained  # what was exported; of a pre-training model perhaps only the encoder
    form: Form
    state: State
    left_out: tuple[str, ...]  # what the state dict does not contain, one sentence each


def to_torch(params: Params, layout: str, *, pool: str = "mean", norm_of: str = "pooled") -> State:
    """Converts parameters to a state dict with the names and shapes of a layout.

    Those of a classifier of boxes are no other than those of a classifier, see `export`.

    Args:
      params: of a model of this package, stacked or not.
      layout: key of `LAYOUTS`.
      pool: pooling of a classifier, "mean" or "class"; it cannot be inferred from parameters.
      norm_of: of a classifier, see `models.Classifier`.

    Raises:
      ConvertError: the layout does not support them.
    """
    params = backbone(params) if layout_of(layout).backbone else params
    flat = _flat(params)
    head = _head_of(params)
    kind = "mvit" if any(name[-1] == "rel_pos_t" for name in flat) else "vit"
    forms = [form for form in layout_of(layout).forms if form.head == head and form.encoder == kind]
    problems: list[str] = []
    for form in forms:
        try:
            if head != "features":
                _check_pool({"pool": pool, "norm_of": norm_of}, form)
            return _state(flat, form)
        except ConvertError as error:
            problems.append(str(error))
    raise ConvertError(
        f"layout {layout!r} does not support a {kind} with head {head!r}"
        + "".join(f"; {problem}" for problem in problems[:1])
    )


def export(trained: Pretrained, layout: str) -> Export:
    """Converts a model to a state dict in a layout.

    If the layout does not support a pre-training model, only its encoder is exported; for
    detectors, only the encoder of any model.

    Raises:
      ConvertError: the layout does not support the model; lists what it supports.
    """
    kind, problems = layout_of(layout), list[str]()
    candidates: list[tuple[Pretrained, tuple[str, ...]]] = [(trained, ())]
    if kind.backbone:
        model = Features(trained.model.encoder, "mean")
        alone = dataclasses.replace(trained, model=model, params=backbone(trained.params))
        others = trained.params.keys() - {"encoder"}
        lost = [f"{name} is left out: a detector has its own" for name in sorted(others)]
        candidates = [(alone, tuple(lost))]
    elif isinstance(trained.model, MaskFeat | MAE):
        alone, left = encoder_alone(trained)
        lost = [f"{name} is left out: the layout has no tensor for it" for name in left]
        candidates.append((alone, tuple(lost)))
    for candidate, left_out in candidates:
        for form in kind.forms:
            try:
                state = _export_as(candidate, form)
            except ConvertError as error:
                problems.append(str(error))
            else:
                notes = [
                    *_dropped(candidate, form),
                    *_of_epsilon(candidate, form, kind),
                ]
                return Export(candidate, form, state, (*left_out, *notes))
    lines = "\n  ".join(dict.fromkeys(problems))
    sections = sections_of(trained.model)
    of_images = all(form.images for form in kind.forms)
    helps = kind.backbone or not isinstance(trained.model, BoxClassifier)
    raise ConvertError(
        f"layout {layout!r} cannot hold this model, {sections['head']} on {sections['model']}:\n"
        f"  {lines}"
        + "\nA model of videos becomes one of images with --resize 1 HEIGHT WIDTH"
        * (trained.clip[0] > 1 and of_images and helps)
    )


def write(trained: Pretrained, folder: str | os.PathLike[str], layout: str) -> Export:
    """Writes a new folder: the tensors, other files that the original needs, and a description.

    Raises:
      ConvertError: see `export`; or the folder is not empty, or PyTorch is missing.
      OSError: a file cannot be written; the folder is removed.
    """
    exported, kind = export(trained, layout), layout_of(layout)
    wrap = kind.wrap

    def wrapped(tensors: dict[str, Any]) -> Any:
        return wrap(tensors, exported.trained) if wrap else tensors

    with new_folder(folder) as made:
        written = [made / kind.file]
        files.write(written[0], exported.state, wrapped)
        for name, document in kind.documents(exported.trained).items():
            written.append(made / name)
            write_atomically(written[-1], json.dumps(document, indent=2, allow_nan=False) + "\n")
        write_description(made, exported.trained, layout, written, exported.left_out)
    return exported


def save(trained: Pretrained, folder: str | os.PathLike[str], layout: str) -> None:
    """Writes a checkpoint of this package to a new folder, see `save_params`."""
    with new_folder(folder) as made:
        save_params(made, trained, layout)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary folder, renamed to `path` after the block and removed if it raises.

    Raises:
      ConvertError: the path exists and is not an empty folder.
      ValueError: the path is a URL.
      OSError: the folder cannot be made.
    """
    path = local_path(path)
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise ConvertError(f"{path} already exists; choose a new or an empty folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _export_as(trained: Pretrained, form: Form) -> State:
    """State dict of a model in one form; ConvertError if the form does not support it."""
    model, encoder = trained.model, trained.model.encoder
    head = sections_of(model)["head"]
    kind = "mvit" if isinstance(encoder, MViT) else "vit"
    if (head["name"], kind) != (form.head, form.encoder):
        raise ConvertError(f"it supports {form.head} on {form.encoder}")
    if form.read_only:
        raise ConvertError("it is read only")
    if getattr(encoder, "activation", "gelu") != "gelu":
        raise ConvertError("it supports encoders with activation='gelu'")
    if head["name"] != "features":
        _check_pool(head, form)
    for name, value in form.encoder_fields.items():
        if getattr(encoder, name) != value:
            raise ConvertError(f"it supports encoders with {name}={value!r}")
    for name, value in form.fields.items():
        value = value(model.width) if callable(value) else value
        free = name == "heads" and not callable(form.fields[name])  # an argument of the original
        if getattr(model, name) != value and not free:
            raise ConvertError(f"it supports {form.head} with {name}={value!r}")
    if form.images and (trained.clip[0] != 1 or encoder.tubelet[0] != 1):
        raise ConvertError(f"it supports {form.head} of images")
    if kind == "mvit" and encoder.tubelet[0] == 1:
        raise ConvertError("it supports an MViT of videos")
    if encoder.tubelet[1] != encoder.tubelet[2]:
        raise ConvertError("it supports square patches")
    if form.square and trained.clip[1] != trained.clip[2]:
        raise ConvertError(f"it supports {form.head} of square clips")
    flat = _flat(trained.params)
    for path, array in flat.items():
        rule = rule_of(form.table, path)
        in_no_file = rule is not None and not rule.theirs
        if in_no_file and not np.array_equal(array, computed(model, trained.clip, path[0])):
            raise ConvertError(f"{'/'.join(path)} is not the table that the original computes")
    state = _state(flat, form)
    if trained.recipe.get("target", {}).get("name", "hog") != "hog":  # the extras are of HOG
        state = {name: tensor for name, tensor in state.items() if name not in form.extras}
    return state


def _check_pool(head: Mapping[str, Any], form: Form) -> None:
    pool, order = head.get("pool"), head.get("norm_of", "pooled")
    other = form.other_pool and pool == "mean"  # the class token has its own form
    if form.pool not in (None, pool) and not other:
        raise ConvertError(f"it supports {form.head} with pool={form.pool!r}")
    if pool == "mean" and order != form.norm_of:
        raise ConvertError(f"it supports {form.head} with norm_of={form.norm_of!r}")


def _state(flat: dict[Name, np.ndarray], form: Form) -> State:
    blocks = {name[2] for name in flat if name[:2] == ("decoder", "blocks")}
    rows = table(form.table, depth=len(blocks))
    state: State = {}
    for name, array in flat.items():
        rule = rule_of(rows, name)
        if rule is None:
            raise ConvertError(f"it has no tensor for {'/'.join(name)}")
        if not rule.theirs:
            continue
        tensors = rule.to_torch(name[-1], array)
        for theirs, tensor in zip(rule.names(name[-1]), tensors, strict=True):
            if theirs is not None:
                state[theirs] = tensor
            elif len(tensors) == 1 and tensor.any():
                raise ConvertError(f"{'/'.join(name)} is not zero, but the original has no bias")
    return state | {name: np.array(value) for name, value in form.extras.items()}


def _dropped(trained: Pretrained, form: Form) -> list[str]:
    """A sentence about biases of the keys, if the form has no tensors for them."""
    for name, array in _flat(trained.params).items():
        rule = rule_of(form.table, name)
        if rule and name[-1] == "bias" and rule.biases and len(rule.biases) == 3:
            keys = rule.to_torch("bias", array)[1]
            if rule.biases[1] is None and keys.any():
                return ["the biases of the keys are left out: outputs do not depend on them"]
    return []


def _of_epsilon(trained: Pretrained, form: Form, layout: Layout) -> list[str]:
    """A sentence if the original has another epsilon in its layer norms."""
    model = trained.model
    ours = model.encoder.epsilon, getattr(model, "last_epsilon", None) or model.encoder.epsilon
    usual = ours[0] if layout.stores_epsilon else 1e-6
    theirs = usual, form.last_epsilon or usual
    if ours == theirs:
        return []
    all_and_last = (f"{first:g}, in the last {last:g}" for first, last in (ours, theirs))
    return ["epsilon of the layer norms here: {}; in the original: {}".format(*all_and_last)]


def _head_of(params: Params) -> str:
    if "decoder" in params:
        return "mae"
    if "mask_token" in params["encoder"]:
        return "maskfeat"
    if "batch_norm" in params:
        return "linear_probe"
    return "classifier" if "projection" in params else "features"


def _flat(params: Params) -> dict[Name, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in named_leaves(unstack_blocks(params)).items()}
