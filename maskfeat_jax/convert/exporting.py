"""From a model of ours with its parameters to files of PyTorch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maskfeat_jax.checkpoints.description import sections_of
from maskfeat_jax.checkpoints.pretrained import Params, Pretrained, save_params, write_description
from maskfeat_jax.checkpoints.trees import Name, named_leaves
from maskfeat_jax.convert import files
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.importing import computed
from maskfeat_jax.convert.layouts import Form
from maskfeat_jax.convert.rules import rule_of, table
from maskfeat_jax.convert.source import layout_of
from maskfeat_jax.files import write_atomically
from maskfeat_jax.models import MAE, Features, MaskFeat, MViT
from maskfeat_jax.models.layers import unstack_blocks

State = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Export:
    """Tensors under their names in a layout."""

    trained: Pretrained  # the model they hold; of a pre-trained one perhaps the encoder alone
    form: Form
    state: State
    left_out: tuple[str, ...]  # what they do not hold, a sentence each


def to_torch(params: Params, layout: str, *, pool: str = "mean") -> State:
    """Parameters under the names, and in the shapes, that a layout has for them.

    Args:
      params: of a model of this package, stacked or not.
      layout: key of `LAYOUTS`.
      pool: what the classifier reads, "mean" or "class"; parameters do not tell.

    Raises:
      ConvertError: the layout has no names for them.
    """
    flat = _flat(params)
    head = _head_of(params)
    kind = "mvit" if any(name[-1] == "rel_pos_t" for name in flat) else "vit"
    forms = [
        form
        for form in layout_of(layout).forms
        if form.head == head and form.encoder == kind and form.pool in (None, pool)
    ]
    problems: list[str] = []
    for form in forms:
        try:
            return _state(flat, form)
        except ConvertError as error:
            problems.append(str(error))
    raise ConvertError(
        f"layout {layout!r} has no form for a {kind} with head {head!r}"
        + "".join(f"; {problem}" for problem in problems[:1])
    )


def export(trained: Pretrained, layout: str) -> Export:
    """Tensors of a model in a layout.

    Where the layout has no form for a model that was pre-trained, its encoder alone is exported.

    Raises:
      ConvertError: the layout has no form for it; says what hinders each.
    """
    problems: list[str] = []
    candidates: list[tuple[Pretrained, tuple[str, ...]]] = [(trained, ())]
    if isinstance(trained.model, MaskFeat | MAE):
        candidates.append(_encoder_alone(trained))
    for candidate, left_out in candidates:
        for form in layout_of(layout).forms:
            try:
                state = _export_as(candidate, form)
            except ConvertError as error:
                problems.append(str(error))
            else:
                notes = _dropped(candidate, form)
                return Export(candidate, form, state, (*left_out, *notes))
    lines = "\n  ".join(dict.fromkeys(problems))
    sections = sections_of(trained.model)
    raise ConvertError(
        f"layout {layout!r} cannot hold this model, {sections['head']} on {sections['model']}:\n"
        f"  {lines}"
    )


def write(trained: Pretrained, folder: str | os.PathLike[str], layout: str) -> Export:
    """Writes a folder with the tensors, what the original needs beside them, and a description.

    Raises:
      ConvertError: see `export`; or the folder is not empty, or PyTorch is missing.
      OSError: a file cannot be written; then nothing is left.
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
    """Writes a checkpoint of this package, see `save_params`, to a `new_folder`."""
    with new_folder(folder) as made:
        save_params(made, trained, layout)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write to; it gets its name when the block ends well, and goes away otherwise.

    Raises:
      ConvertError: something other than an empty folder is there already.
      OSError: the folder cannot be made.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise ConvertError(f"{path} exists already; name a new folder")
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


def _encoder_alone(trained: Pretrained) -> tuple[Pretrained, tuple[str, ...]]:
    kept = {name: trained.params[name] for name in ("encoder", "norm")}
    encoder = {k: v for k, v in kept["encoder"].items() if k != "mask_token"}
    left = [name for name in trained.params if name not in kept]
    left += ["encoder/mask_token"] if "mask_token" in kept["encoder"] else []
    autoencoder = isinstance(trained.model, MAE)
    pool = "class" if autoencoder and trained.model.encoder.class_tokens else "mean"
    model = Features(trained.model.encoder, pool)
    alone = dataclasses.replace(trained, model=model, params={**kept, "encoder": encoder})
    return alone, tuple(f"{name} is left out: the layout has no place for it" for name in left)


def _export_as(trained: Pretrained, form: Form) -> State:
    """Tensors of a model in one form; ConvertError if that is for others."""
    model, encoder = trained.model, trained.model.encoder
    head = sections_of(model)["head"]
    kind = "mvit" if isinstance(encoder, MViT) else "vit"
    if (head["name"], kind) != (form.head, form.encoder):
        raise ConvertError(f"there is a form for {form.head} on {form.encoder}")
    if head["name"] != "features" and form.pool not in (None, head.get("pool")):
        raise ConvertError(f"there is a form for {form.head} with pool={form.pool!r}")
    for name, value in form.encoder_fields.items():
        if getattr(encoder, name) != value:
            raise ConvertError(f"there is a form for encoders with {name}={value!r}")
    for name, value in form.fields.items():
        value = value(model.width) if callable(value) else value
        free = name == "heads" and not callable(form.fields[name])  # an argument of the original
        if getattr(model, name) != value and not free:
            raise ConvertError(f"there is a form for {form.head} with {name}={value!r}")
    if form.images and (trained.clip[0] != 1 or encoder.tubelet[0] != 1):
        raise ConvertError(f"there is a form for {form.head} of images")
    if encoder.tubelet[1] != encoder.tubelet[2]:
        raise ConvertError("there are forms for square patches")
    if form.square and trained.clip[1] != trained.clip[2]:
        raise ConvertError(f"there is a form for {form.head} of squares")
    flat = _flat(trained.params)
    for path, array in flat.items():
        rule = rule_of(form.table, path)
        in_no_file = rule is not None and not rule.theirs
        if in_no_file and not np.array_equal(array, computed(model, trained.clip, path[0])):
            raise ConvertError(f"{'/'.join(path)} is not what the original computes")
    state = _state(flat, form)
    if trained.recipe.get("target", {}).get("name", "hog") != "hog":  # the extras are of HOG
        state = {name: tensor for name, tensor in state.items() if name not in form.extras}
    return state


def _state(flat: dict[Name, np.ndarray], form: Form) -> State:
    blocks = {name[2] for name in flat if name[:2] == ("decoder", "blocks")}
    rows = table(form.table, depth=len(blocks))
    state: State = {}
    for name, array in flat.items():
        rule = rule_of(rows, name)
        if rule is None:
            raise ConvertError(f"there is no place for {'/'.join(name)}")
        if not rule.theirs:
            continue
        parts = rule.to_torch(name[-1], array)
        for theirs, part in zip(rule.names(name[-1]), parts, strict=True):
            if theirs is not None:
                state[theirs] = part
            elif len(parts) == 1 and part.any():
                raise ConvertError(f"{'/'.join(name)} is not zero, and the original has no bias")
    return state | {name: np.array(value) for name, value in form.extras.items()}


def _dropped(trained: Pretrained, form: Form) -> list[str]:
    """Biases of keys that the form has no place for."""
    for name, array in _flat(trained.params).items():
        rule = rule_of(form.table, name)
        if rule and name[-1] == "bias" and rule.biases and len(rule.theirs) == 3:
            keys = rule.to_torch("bias", array)[1]
            if rule.biases[1] is None and keys.any():
                return ["the biases of the keys are left out: outputs do not depend on them"]
    return []


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
