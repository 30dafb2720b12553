"""Notes of a process among several: its examples, and digests of the saved and restored states.

Each line of the notes is `["ids", update, [ids of this process's rows]]`, or `["saved", updates,
digest]`, or `["restored", updates, digest]`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from input_pipeline import Loader
from maskfeat_jax.checkpoints.checkpointer import Checkpoints
from maskfeat_jax.checkpoints.trees import named_leaves


def digest(state: Any) -> str:
    """SHA-256 of all arrays of a state, whole; all processes call it."""
    hashed = hashlib.sha256()
    for name, leaf in sorted(named_leaves(state).items()):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        array = np.asarray(leaf)
        hashed.update(f"{name} {array.shape} {array.dtype}".encode())
        hashed.update(array.tobytes())
    return hashed.hexdigest()


def watch(path: str) -> None:
    """Puts the notes around what they are about."""
    batches, save, restore = Loader.train_batches, Checkpoints.save, Checkpoints.restore

    def note(*words: Any) -> None:
        with open(path, "a") as file:
            file.write(json.dumps(words) + "\n")

    def noted_batches(self: Any, start_step: int = 0) -> Any:
        for step, batch in enumerate(batches(self, start_step), start_step):
            note("ids", step, batch["index"].tolist())
            yield batch

    def noted_save(self: Any, step: int, state: Any, facts: Any) -> Any:
        note("saved", step, digest(state))
        return save(self, step, state, facts)

    def noted_restore(self: Any, step: int, like: Any) -> Any:
        state, facts = restore(self, step, like)
        note("restored", step, digest(state))
        return state, facts

    Loader.train_batches = noted_batches
    Checkpoints.save, Checkpoints.restore = noted_save, noted_restore
