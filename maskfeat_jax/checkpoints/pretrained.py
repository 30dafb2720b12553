"""Reading saved steps, of this run or another: nothing is changed."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from maskfeat_jax.checkpoints import arrays as stored_arrays
from maskfeat_jax.checkpoints import manifest
from maskfeat_jax.checkpoints.storage import ARRAYS, CheckpointError, Storage, in_brief
from maskfeat_jax.checkpoints.trees import Name, nest
from maskfeat_jax.distributed.collectives import on_first_process


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters read from a checkpoint, as numpy arrays in nested dictionaries.

    Attributes:
      step: number of updates behind them.
      params: the parameters.
      ema: their moving average, or None if the run kept none.
      facts: what was stored with the step.
    """

    step: int
    params: dict[str, Any]
    ema: dict[str, Any] | None
    facts: dict[str, Any]

    @property
    def evaluated(self) -> dict[str, Any]:
        """The moving average where there is one, as in `TrainState`."""
        return self.params if self.ema is None else self.ema


def load_params(path: str | os.PathLike[str]) -> Weights:
    """Reads the `params` and `ema` of a saved state and nothing else, on the host.

    Nothing is moved or changed: the directory may belong to another run. Damaged steps that are
    passed over are warned of.

    Args:
      path: a work directory or its `checkpoints` (the newest good step is taken), or one step.

    Raises:
      CheckpointError: there is no checkpoint, it is damaged, or holds no `params`.
    """
    directory = pathlib.Path(path).absolute()
    if not (directory / manifest.FILE).exists():
        nested = directory / "checkpoints"
        storage = Storage(nested if nested.is_dir() else directory)
        newest = on_first_process(lambda: storage.newest_good(move=False) + 1) - 1
        for sentence in storage.messages:
            warnings.warn(sentence, stacklevel=2)
        if newest < 0:
            raise CheckpointError(
                f"{path} holds no checkpoint; expected a work directory with checkpoints/, or one "
                "of its steps"
            )
        directory = storage.directory / str(newest)
    body = verified(directory, None, "full")
    named = {tuple(text.split("/")): leaf for text, leaf in body["leaves"].items()}
    wanted = {
        name: np.empty(leaf["shape"], jnp.dtype(leaf["dtype"]))
        for name, leaf in named.items()
        if name[0] in ("params", "ema")
    }
    if not any(name[0] == "params" for name in wanted):
        found = sorted({name[0] for name in named})
        raise CheckpointError(f"{directory} holds no params, only {', '.join(found)}")
    tree = nest(read(directory, wanted, partial=True))
    return Weights(body["step"], tree["params"], tree.get("ema"), body["facts"])


def read(directory: pathlib.Path, wanted: Mapping[Name, Any], *, partial: bool) -> dict[Name, Any]:
    """Reads arrays of a verified step, see `stored_arrays.read`.

    Raises:
      CheckpointError: they cannot be read, or not as wanted.
    """
    try:
        return stored_arrays.read(directory / ARRAYS, wanted, partial=partial)
    except (stored_arrays.Unfit, *stored_arrays.STORAGE_ERRORS) as error:
        raise CheckpointError(f"{directory} cannot be loaded: {in_brief(error)}") from error


def verified(directory: pathlib.Path, step: int | None, level: str) -> dict[str, Any]:
    """Checks a step on process 0; the content of its manifest in all processes, which all call it.

    Args:
      directory: of the step.
      step: the number it should have; None: any.
      level: how closely, see `manifest.verify`.

    Raises:
      CheckpointError: it is damaged.
    """

    def look(closely: str) -> dict[str, Any]:
        try:
            return manifest.verify(directory, step, closely)
        except manifest.Damaged as damage:
            raise CheckpointError(
                f"{directory} cannot be loaded: {damage}. Use another step, or a copy of this one."
            ) from damage

    on_first_process(lambda: int(not look(level)))
    return look("length")
