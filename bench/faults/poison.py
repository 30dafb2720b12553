"""Numbers that are not finite, put into the compiled step at chosen updates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from maskfeat_jax import augment, steps
from maskfeat_jax.tasks import TASKS

Doses = list[dict[str, Any]]


class _Poison:
    """What is put in while a step is traced.

    A dose is `{"kind": ..., "from": step, "to": step, "row": row}`; `to` is the
    step after the last.
    Kinds: `input` (one number of the clip of a row, so on one device only), `loss`, `gradient`
    (one number of it) and `parameters` (one number of them, after the update).
    """

    def __init__(self, doses: Doses):
        self._doses = doses
        self._step: Any = None  # of the state, while a step is traced

    def _due(self, dose: dict[str, Any]) -> Any:
        return (self._step >= dose["from"]) & (self._step < dose["to"])

    def _put(self, kind: str, value: Any) -> Any:
        for dose in self._doses:
            if dose["kind"] == kind and self._step is not None:
                place = (dose.get("row", 0), *[0] * value.ndim)[: value.ndim]
                value = value.at[place].set(jnp.where(self._due(dose), jnp.nan, value[place]))
        return value

    def tree(self, kind: str, tree: Any) -> Any:
        """Poisons the first leaf."""
        leaves, structure = jax.tree.flatten(tree)
        return jax.tree.unflatten(structure, [self._put(kind, leaves[0]), *leaves[1:]])

    def clips(self, normalise: Any) -> Any:
        return lambda self_, video: self._put("input", normalise(self_, video))

    def gradient(self, accumulated: Any) -> Any:
        def poisoned(*words: Any, **named: Any) -> Any:
            (loss, others), grads = accumulated(*words, **named)
            return (self._put("loss", loss), others), self.tree("gradient", grads)

        return poisoned

    def train_step(self, train_step: Any) -> Any:
        def poisoned(task: Any, state: Any, *words: Any, **named: Any) -> Any:
            self._step = state.step
            new, metrics = train_step(task, state, *words, **named)
            new = new.replace(params=self.tree("parameters", new.params))
            self._step = None
            return new, metrics

        return poisoned


def poison(doses: Doses) -> None:
    """Puts doses into every task of this process."""
    put = _Poison(doses)
    augment.Normalise.__call__ = put.clips(augment.Normalise.__call__)  # type: ignore[method-assign]
    steps.accumulated_gradient = put.gradient(steps.accumulated_gradient)
    for task in {task for task in TASKS.values() if task.learns}:
        task.train_step = put.train_step(task.train_step)
