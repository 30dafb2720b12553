"""Any checkpoint, ours or PyTorch's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from maskfeat_jax.checkpoints import manifest
from maskfeat_jax.checkpoints.checkpointer import Checkpoints, load_params
from maskfeat_jax.convert import metadata
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.folders import new_folder
from maskfeat_jax.convert.importing import load_torch, resized
from maskfeat_jax.convert.trained import Trained, load_run, workdir_of
from maskfeat_jax.ops.patches import Size3


def load(
    path: str | os.PathLike[str],
    layout: str | None = None,
    *,
    resize: Size3 | None = None,
    ema: bool = True,
    **arguments: Any,
) -> Trained:
    """A model with its parameters.

    Args:
      path: of a work directory, one of its steps, an imported checkpoint, or a PyTorch file.
      layout: of a PyTorch file; None to find it out.
      resize: frames, height and width that the model is wanted for, if not its own.
      ema: take the moving average of the parameters where there is one.
      **arguments: of `load_torch`, for a PyTorch file alone.

    Raises:
      CheckpointError, WorkdirError, RecipeError: a checkpoint of ours cannot be read.
      ConvertError: a PyTorch file cannot be read, or nothing is there.
    """
    if not is_ours(path):
        return load_torch(path, layout, resize=resize, ema=ema, **arguments)
    arguments = {"layout": layout, **arguments}
    if needless := [name for name, value in arguments.items() if value not in (None, False)]:
        raise ConvertError(
            f"{path} is a checkpoint of this package, which tells all about itself; "
            f"{', '.join(needless)}: only for files of PyTorch"
        )
    workdir = workdir_of(path)
    imported = (workdir / metadata.FILE).exists()
    trained = _load_imported(workdir) if imported else load_run(path, ema=ema)
    return trained if resize in (None, trained.clip) else resized(trained, resize)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether it is a work directory, or one of its steps, of a run of this package."""
    return is_ours(path) and not (workdir_of(path) / metadata.FILE).exists()


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether it is a work directory, a directory of steps, or a step."""
    path = Path(path)
    inside = (manifest.FILE, "checkpoints")
    steps = path.name == "checkpoints" and path.is_dir()
    return steps or any((path / name).exists() for name in inside)


def save(trained: Trained, folder: str | os.PathLike[str], layout: str) -> None:
    """Writes a checkpoint of this package: `checkpoints/0` and a description.

    Args:
      trained: the model.
      folder: to be made; it may exist, but must be empty.
      layout: of the file that it was read from.

    Raises:
      CheckpointError, ConvertError, OSError: it cannot be written; then nothing is left.
    """
    with new_folder(folder) as path:
        state = {"params": trained.params}
        with Checkpoints(path / "checkpoints") as checkpoints:
            checkpoints.save(0, state, {"from": trained.origin})
        metadata.write(path, trained, layout, [], [])


def _load_imported(folder: Path) -> Trained:
    try:
        document = json.loads((folder / metadata.FILE).read_text(encoding="utf-8"))
        return metadata.trained_of(document, load_params(folder).evaluated, str(folder))
    except (KeyError, TypeError, ValueError) as error:
        raise ConvertError(f"{folder / metadata.FILE} cannot be used: {error!r}") from error
