"""Evidence of updates that were not finite, saved when they end a run."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskfeat_jax.checkpoints.checkpointer import Checkpoints
from maskfeat_jax.checkpoints.trees import named_leaves
from maskfeat_jax.files import write_atomically
from maskfeat_jax.state import TrainState
from maskfeat_jax.training.experiment import Experiment
from maskfeat_jax.training.metrics import Bad
from maskfeat_jax.training.prefetch import Batch


def keep_evidence(
    experiment: Experiment,
    workdir: pathlib.Path,
    state: TrainState,
    bad: Sequence[Bad],
    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]],
) -> str:
    """Saves state and batch of the first of the bad updates, and repeats it.

    Writes `nonfinite/<step>`, a checkpoint of the state, `nonfinite/batch_<step>_<process>.npz`,
    the batch, and `nonfinite/<step>.json`: loss and gradient norm, first and when repeated, and
    the norm of the parameters of each block. All processes call this.

    Args:
      experiment: what is trained.
      workdir: the work directory.
      state: after the last of the bad updates; skipped updates change nothing but its counters and
        recent losses.
      bad: consecutive skipped updates.
      step: the compiled step; donates the state.

    Returns:
      A sentence about the result of the repetition.
    """
    assert experiment.training is not None
    with contextlib.closing(experiment.training.train_batches(bad[0].step)) as batches:
        batch = next(batches)
    first, folder = bad[0], workdir / "nonfinite"
    then = state.replace(
        step=jnp.full_like(state.step, first.step), skipped=state.skipped - len(bad)
    )
    checkpoints = Checkpoints(folder)
    checkpoints.save(first.step, then.stored, {"examples": first.examples})
    checkpoints.finish()
    np.savez(folder / f"batch_{first.step}_{jax.process_index()}.npz", **batch)
    norms = jax.device_get(_norms(state.params))
    _, again = step(jax.tree.map(jnp.copy, then), experiment.to_devices(batch))
    repeated = {name: float(again[name]) for name in ("loss", "grad_norm")}
    found = {
        "step": first.step,
        "examples": first.examples,
        "then": {"loss": str(first.loss), "grad_norm": str(first.grad_norm)},
        "repeated": {name: str(value) for name, value in repeated.items()},
        "norms": {name: str(float(norm)) for name, norm in norms.items()},
    }
    if jax.process_index() == 0:
        write_atomically(folder / f"{first.step}.json", json.dumps(found, indent=1) + "\n")
    if np.isfinite(list(repeated.values())).all():
        return (
            f"step {first.step} was repeated and is finite now: the same program on the same data "
            "gave two results, so suspect the hardware"
        )
    return f"step {first.step} was repeated and is again not finite: suspect the data or the code"


@jax.jit
def _norms(params: Any) -> dict[str, jax.Array]:
    """Norm of the parameters of each block and of each module outside the blocks."""
    squares: dict[str, jax.Array] = {}
    for (*words, _), leaf in named_leaves(params).items():
        name = "/".join(words[:3] if "blocks" in words[:2] else words[:2])
        squares[name] = squares.get(name, jnp.float32(0)) + jnp.sum(jnp.square(leaf))
    return {name: jnp.sqrt(square) for name, square in squares.items()}
