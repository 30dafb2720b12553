"""Checks that all processes of a run have the same recipe, data, code, versions and devices."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from maskfeat_jax.distributed.collectives import gather
from maskfeat_jax.sections import flatten

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow", "av")


class ProcessesDiffer(ValueError):
    """The processes do not run the same; lists the differences."""


def compare(facts: Mapping[str, str]) -> None:
    """Checks that the processes run the same; all processes call it.

    Args:
      facts: of this process, see `facts_of`.

    Raises:
      ProcessesDiffer: in every process; with a table of the differences.
    """
    counts = [0] * jax.process_count()
    for device in jax.devices():
        counts[device.process_index] += 1
    if len(set(counts)) > 1:  # gathering needs the same number in each
        raise ProcessesDiffer(
            "the processes have different numbers of devices: "
            + ", ".join(f"process {i} has {count}" for i, count in enumerate(counts))
        )
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()
    if len(set(gather(digest))) > 1:
        rows = gather([socket.gethostname(), dict(facts)])
        raise ProcessesDiffer(
            "the processes do not run the same:\n"
            + _table(rows)
            + "\nStart all with the same command, code, packages and data."
        )


def facts_of(recipe: Mapping[str, Any], *fingerprints: str) -> dict[str, str]:
    """The facts that `compare` checks.

    Args:
      recipe: the resolved recipe.
      *fingerprints: of the lists of examples.
    """
    return {
        **flatten(recipe, "recipe"),
        **{f"data {i}": words for i, words in enumerate(fingerprints)},
        "code": code_hash(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "device": jax.local_devices()[0].device_kind,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def code_hash(root: pathlib.Path = pathlib.Path(__file__).parents[2]) -> str:
    """SHA-256 of the code of a run: main.py and the packages maskfeat_jax and input_pipeline.

    Args:
      root: the folder that contains them.
    """
    digest = hashlib.sha256()
    found = [root / name for name in ("main.py",) if (root / name).is_file()]
    for folder in ("maskfeat_jax", "input_pipeline"):
        found += sorted((root / folder).rglob("*.py"))
    for path in found:
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def version(package: str) -> str:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _table(rows: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """A table of facts that differ: for each value the processes that have it."""
    lines = []
    for fact in sorted({name for _, facts in rows for name in facts}):
        holders: dict[str, list[str]] = {}
        for process, (host, facts) in enumerate(rows):
            holders.setdefault(facts.get(fact, "(absent)"), []).append(f"{process} ({host})")
        if len(holders) > 1:
            lines.append(f"  {fact}:")
            for value, who in holders.items():
                listed = ", ".join(who[:8]) + (f" and {len(who) - 8} more" if len(who) > 8 else "")
                lines.append(f"    {value[:200]}: process {listed}")
    return "\n".join(lines)
