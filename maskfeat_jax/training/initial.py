"""The parameters that a run begins with: fresh ones, or those of another run or file."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from maskfeat_jax.checkpoints.pretrained import is_run, load_params
from maskfeat_jax.convert import load, resized
from maskfeat_jax.tasks import Task
from maskfeat_jax.transfer import TransferError, transfer


class InitFrom(NamedTuple):
    """Where parameters come from: `init_from`, `init_parts`, `init_resize` of the section `model`.

    Attributes:
      path: work directory, checkpoint or PyTorch file; empty for fresh parameters.
      parts: top-level names of the parameters to take of it; None for all.
      resize: interpolate tables of positions that were made for another size of clips.
    """

    path: str = ""
    parts: tuple[str, ...] | None = None
    resize: bool = False

    @classmethod
    def of(
        cls,
        init_from: str = "",
        init_parts: tuple[str, ...] | None = None,
        init_resize: bool = False,
    ) -> InitFrom:
        """From the keys of the section `model`."""
        return cls(init_from, init_parts, init_resize)


def initial_params(task: Task, seed: int, source: InitFrom) -> Any:
    """Fresh parameters on the host, those of `source` in their place.

    Raises:
      TransferError: they do not fit the model.
      CheckpointError, ConvertError: they cannot be read.
    """
    fresh = jax.device_get(jax.jit(task.init)(jax.random.key(seed)))
    if not source.path:
        return fresh
    parts = tuple(fresh) if source.parts is None else source.parts
    if is_run(source.path) and not source.resize:
        return transfer(fresh, load_params(source.path).evaluated, parts=parts)
    loaded = load(source.path)
    _check_same_network(loaded.model, task.model, parts)
    if source.resize:
        loaded = resized(loaded, task.clip)
    return transfer(fresh, loaded.params, parts=parts)


def _check_same_network(found: Any, wanted: Any, parts: tuple[str, ...]) -> None:
    """Raises TransferError where parameters fit, but would be computed with in another way."""
    fields = [("model", name) for name in ("heads", "kv_stride", "widen_in")]
    fields += [("head", "pool")] if "projection" in parts else []
    for section, name in fields:
        models = (m.encoder if section == "model" else m for m in (found, wanted))
        has, asked = (getattr(model, name, None) for model in models)
        if None not in (has, asked) and has != asked:
            raise TransferError(
                f"{section}.{name}={asked!r}, but what model.init_from names has {has!r}"
            )
