"""The initial parameters of a run: random, or from another run or a PyTorch file."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from maskfeat_jax.checkpoints.pretrained import is_run, load_params
from maskfeat_jax.convert import load, resized
from maskfeat_jax.tasks import Task
from maskfeat_jax.transfer import TransferError, transfer


class InitFrom(NamedTuple):
    """Source of initial parameters: `init_from`, `init_parts`, `init_resize` of section `model`.

    Attributes:
      path: work directory, checkpoint or PyTorch file; empty for random parameters.
      parts: top-level keys of the parameters to take from it; None for all.
      resize: interpolate positional embeddings of another clip size.
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
        """Made from the keys of the section `model`."""
        return cls(init_from, init_parts, init_resize)


def initial_params(task: Task, seed: int, source: InitFrom) -> Any:
    """Random parameters on the host, replaced by those of `source` if it has a path.

    Raises:
      TransferError: the parameters of `source` do not fit the model.
      CheckpointError, ConvertError: `source` cannot be read.
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


def _check_same_network(source: Any, model: Any, parts: tuple[str, ...]) -> None:
    """Raises TransferError if settings that do not show in the shapes of parameters differ."""
    fields = [("model", name) for name in ("heads", "kv_stride", "widen_in")]
    fields += [("head", "pool")] if "projection" in parts else []
    for section, name in fields:
        modules = (m.encoder if section == "model" else m for m in (source, model))
        theirs, ours = (getattr(module, name, None) for module in modules)
        if None not in (theirs, ours) and theirs != ours:
            raise TransferError(
                f"{section}.{name}={ours!r}, but the model of model.init_from has {theirs!r}"
            )
