"""Saving and restoring the state of a run. The only file that knows Orbax.

A step is a directory `checkpoints/<step>/`: `arrays/`, written by Orbax, and `manifest.json`, ours.
Orbax stores no content checksums, does not fall back from a damaged step, and casts to another
dtype without a word; the manifest is there for these three. It holds the format version, the step,
the caller's facts, shape and dtype of each array, and length and SHA-256 of each file; its own
SHA-256 closes it. A step is written as `<step>.saving` and gets its name when it is complete, so a
numbered directory without a valid manifest is damaged: it is reported, never loaded, never deleted.

Saving is synchronous: `save` returns when the step is on the disk. Leaves are stored under the path
of their names in the tree (`params/encoder/...`), so containers without leaves (`EmptyState`, None)
need no storage; typed PRNG keys are stored as their data.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from maskfeat_jax import manifest
from maskfeat_jax.leaves import Name, describe, differences, in_words, named_leaves, nest
from maskfeat_jax.workdir import on_first_process, sync_directory

_ARRAYS = "arrays"
_SAVING = ".saving"


class CheckpointError(RuntimeError):
    """A step cannot be saved, or cannot be trusted, or does not fit; says which and why."""


class Checkpoints:
    """The saved steps of one run.

    Attributes:
      bad: what `latest_good` or `save` found wrong on their last call, one sentence per step;
        filled on process 0 only.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int = 3,
        keep_every_steps: int | None = None,
    ):
        """Opens a directory of steps; it is made at the first save.

        Args:
          directory: `<workdir>/checkpoints`. With several processes: the same shared directory.
          keep_last: how many of the newest good steps stay.
          keep_every_steps: steps that are a multiple of this stay for ever; None: no such steps.

        Raises:
          ValueError: a number is not positive.
        """
        if keep_last < 1 or (keep_every_steps is not None and keep_every_steps < 1):
            raise ValueError(
                f"keep_last {keep_last}, keep_every_steps {keep_every_steps}: expected at least 1"
            )
        self._directory = pathlib.Path(directory).absolute()
        self._keep_last = keep_last
        self._keep_every_steps = keep_every_steps
        self.bad: list[str] = []

    def steps(self) -> list[int]:
        """Every numbered step, ascending, good or not."""
        if not self._directory.is_dir():
            return []
        found = (p for p in self._directory.iterdir() if p.is_dir() and not p.is_symlink())
        return sorted(int(p.name) for p in found if re.fullmatch(r"0|[1-9][0-9]*", p.name))

    def save(self, step: int, state: PyTree, facts: Mapping[str, Any]) -> None:
        """Saves a state; all processes call it. A good step that is already there is left as is.

        A damaged step of the same number is renamed to `<step>.damaged`. When the new step has
        been read back and verified, older good ones that the keep rule does not name are deleted.

        Args:
          step: number of updates made.
          state: any tree of arrays, sharded or not.
          facts: what else to know about the step; what JSON can hold.

        Raises:
          CheckpointError: storage failed. Older steps are untouched.
          ValueError: the state or the facts cannot be stored.
        """
        leaves = named_leaves(state)
        body = {
            "step": _valid_step(step),
            "facts": dict(facts),
            "leaves": {"/".join(name): describe(leaf) for name, leaf in leaves.items()},
        }
        manifest.check_body(body)  # complains about the facts before anything is written
        temporary = self._directory / f"{step}{_SAVING}"
        try:
            if on_first_process(lambda: self._make_room(step)):
                ocp.save(temporary / _ARRAYS, nest(_stored(leaves)))
                on_first_process(lambda: self._commit(step, body))
        except (OSError, ValueError) as error:  # Orbax raises both when a write fails
            raise CheckpointError(
                f"step {step} could not be saved in {self._directory}: {error}\n"
                f"Older steps are untouched. {_free_space(self._directory)}; make room or correct "
                "the permissions, then run the same command again."
            ) from error
        on_first_process(lambda: self._drop_old(step))

    def latest_good(self) -> int | None:
        """The newest step whose files all match their manifest; None if nothing was saved yet.

        Reads every byte of the steps it looks at. Damaged ones are described in `bad`.

        Raises:
          CheckpointError: there are steps, but no good one.
        """
        found = on_first_process(lambda: self._find_good() + 1)
        return found - 1 if found else None

    def restore(self, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Restores a saved state, after verifying it.

        Args:
          step: a saved step.
          like: the same tree with `jax.ShapeDtypeStruct`s (or arrays) as leaves. Their `sharding`
            says where the arrays go; the first device where it is None. The number of devices may
            differ from that at the time of saving.

        Returns:
          The state, and the facts given to `save`.

        Raises:
          CheckpointError: the step is missing or damaged, or a name, shape or dtype differs
            between it and `like`; each one is named.
        """
        directory = self._directory / str(_valid_step(step))
        body = _verified(directory, step)
        wanted = named_leaves(like)
        described = {"/".join(name): describe(leaf) for name, leaf in wanted.items()}
        if lines := differences(body["leaves"], described):
            raise CheckpointError(
                f"{directory} does not fit the state it should be restored into:\n  "
                + "\n  ".join(lines)
                + "\nWas it saved with another model, optimiser or precision?"
            )
        abstract = {name: _abstract(leaf) for name, leaf in wanted.items()}
        loaded = _load(directory, abstract, partial=False)
        leaves = [
            jax.random.wrap_key_data(loaded[name], impl=_key_impl(leaf))
            if _is_key(leaf)
            else loaded[name]
            for name, leaf in wanted.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), body["facts"]

    def _find_good(self) -> int:
        """Newest good step, -1 if there are none at all."""
        steps = self.steps()
        self.bad = [
            f"{p.name}: an unfinished save, ignored"
            for p in sorted(self._directory.glob(f"[0-9]*{_SAVING}"))
        ]
        for step in reversed(steps):
            try:
                manifest.verify(self._directory / str(step), step)
            except manifest.Damaged as damage:
                self.bad.append(f"step {step}: {damage}; not loaded, left as it is")
            else:
                return step
        if steps:
            raise CheckpointError(
                f"none of the checkpoints in {self._directory} can be trusted:\n  "
                + "\n  ".join(self.bad)
                + "\nNothing was deleted. Restore one from a copy, or start again with a new "
                "--workdir."
            )
        return -1

    def _make_room(self, step: int) -> int:
        """Prepares `<step>.saving`; 0 if a good step of that number makes saving needless."""
        self.bad = []
        final = self._directory / str(step)
        if final.exists():
            try:
                manifest.verify(final, step)
            except manifest.Damaged as damage:
                aside = _unused(final.with_name(f"{step}.damaged"))
                final.rename(aside)
                self.bad.append(f"step {step}: {damage}; renamed to {aside.name}, saved anew")
            else:
                return 0
        self._directory.mkdir(parents=True, exist_ok=True)
        for leftover in self._directory.glob(f"[0-9]*{_SAVING}"):  # of a save cut short
            if re.fullmatch(r"[0-9]+", leftover.stem) and not leftover.is_symlink():
                shutil.rmtree(leftover)
        (self._directory / f"{step}{_SAVING}").mkdir()
        return 1

    def _commit(self, step: int, body: dict[str, Any]) -> int:
        temporary = self._directory / f"{step}{_SAVING}"
        manifest.write(temporary, body)
        temporary.rename(self._directory / str(step))
        sync_directory(self._directory)
        return 0

    def _drop_old(self, newest: int) -> int:
        """Deletes what the keep rule does not name, after verifying the newest.

        Damaged steps neither count for the keep rule nor are deleted.
        """
        steps = self.steps()
        steps.remove(newest)
        try:
            manifest.verify(self._directory / str(newest), newest)
        except manifest.Damaged as damage:
            raise CheckpointError(
                f"step {newest} was saved but reads back wrong: {damage}. The disk in "
                f"{self._directory} cannot be trusted. No older step was deleted."
            ) from damage
        good = 1
        for step in reversed(steps):
            directory = self._directory / str(step)
            every = self._keep_every_steps
            try:
                # To count it is enough that the files are there; to delete they must be sound.
                kept = good < self._keep_last or (every is not None and step % every == 0)
                manifest.verify(directory, step, contents=not kept)
            except manifest.Damaged as damage:
                self.bad.append(f"step {step}: {damage}; left as it is")
                continue
            good += 1
            if not kept:
                # Renamed first: a half-deleted step must not look like a damaged one.
                doomed = directory.with_name(f"{step}{_SAVING}")
                directory.rename(doomed)
                shutil.rmtree(doomed)
        return 0


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

    Args:
      path: a work directory or its `checkpoints` (the newest good step is taken), or one step.

    Raises:
      CheckpointError: there is no checkpoint, it is damaged, or holds no `params`.
    """
    directory = pathlib.Path(path).absolute()
    if not (directory / manifest.FILE).exists():
        nested = directory / "checkpoints"
        steps = Checkpoints(nested if nested.is_dir() else directory)
        newest = steps.latest_good()
        if newest is None:
            raise CheckpointError(
                f"{path} holds no checkpoint; expected a work directory with checkpoints/, or one "
                "of its steps"
            )
        directory = steps._directory / str(newest)
    body = _verified(directory, None)
    named = {tuple(text.split("/")): leaf for text, leaf in body["leaves"].items()}
    abstract = {
        name: np.empty(leaf["shape"], jnp.dtype(leaf["dtype"]))
        for name, leaf in named.items()
        if name[0] in ("params", "ema")
    }
    if not any(name[0] == "params" for name in abstract):
        found = sorted({name[0] for name in named})
        raise CheckpointError(f"{directory} holds no params, only {', '.join(found)}")
    tree = nest(_load(directory, abstract, partial=True))
    return Weights(body["step"], tree["params"], tree.get("ema"), body["facts"])


def _valid_step(step: int) -> int:
    if step < 0:
        raise ValueError(f"step {step} is negative")
    return int(step)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> str:
    """Name of the generator of a typed PRNG key, which may be abstract."""
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        if jax.eval_shape(lambda impl=impl: jax.random.key(0, impl=impl)).dtype == leaf.dtype:
            return impl
    raise ValueError(f"PRNG keys of type {leaf.dtype} cannot be stored")


def _stored(leaves: Mapping[Name, Any]) -> dict[Name, Any]:
    """What Orbax gets: keys as their data; it refuses arrays without elements."""
    data = {n: jax.random.key_data(x) if _is_key(x) else x for n, x in leaves.items()}
    return {name: leaf for name, leaf in data.items() if leaf.size}


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """What Orbax is asked for: shape, dtype and sharding of a leaf or of a key's data."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if _is_key(leaf):
        shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        leaf = jax.eval_shape(jax.random.key_data, shape)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _load(directory: pathlib.Path, abstract: Mapping[Name, Any], *, partial: bool) -> dict:
    """Reads leaves and checks that each came as it was asked for."""
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    stored = {name: leaf for name, leaf in abstract.items() if leaf.size}
    with context:
        read = named_leaves(ocp.load(directory / _ARRAYS, nest(stored))) if stored else {}
    loaded: dict[Name, Any] = {}
    for name, leaf in abstract.items():
        if isinstance(leaf, np.ndarray) and not leaf.size:
            loaded[name] = leaf
        elif not leaf.size:
            loaded[name] = jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
        else:
            loaded[name] = read[name]
        if loaded[name].dtype != leaf.dtype or loaded[name].shape != leaf.shape:
            raise CheckpointError(
                f"{directory}: {'/'.join(name)} was read as {in_words(describe(loaded[name]))}, "
                f"not {in_words(describe(leaf))}; 64-bit numbers need jax_enable_x64"
            )
    return loaded


def _verified(directory: pathlib.Path, step: int | None) -> dict[str, Any]:
    """Reads and checks a step on process 0; the content of its manifest in all processes."""

    def verify() -> int:
        try:
            manifest.verify(directory, step)
        except manifest.Damaged as damage:
            raise CheckpointError(
                f"{directory} cannot be loaded: {damage}. Use another step, or a copy of this one."
            ) from damage
        return 0

    on_first_process(verify)
    return manifest.verify(directory, step, contents=False)


def _unused(path: pathlib.Path) -> pathlib.Path:
    names = (path.with_name(f"{path.name}-{i}") if i else path for i in itertools.count())
    return next(name for name in names if not name.exists())


def _free_space(directory: pathlib.Path) -> str:
    while not directory.exists():
        directory = directory.parent
    return f"{shutil.disk_usage(directory).free / 1e9:.1f} GB are free"
