"""Leaves of trees by name, as checkpoints store and compare them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from maskfeat_jax.models.layers import stacked_range

_MOST_LINES = 10  # lines of a list of differences

Name = tuple[str, ...]  # the path of keys to a leaf


def named_leaves(tree: PyTree) -> dict[Name, Any]:
    """Leaves by name, in the order of the tree; Python numbers become arrays."""
    leaves: dict[Name, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)
        if not all(name) or any("/" in key for key in name) or name in leaves:
            raise ValueError(f"leaf {name}: its keys must be unique, not empty and without '/'")
        leaves[name] = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    if not leaves or () in leaves:
        raise ValueError("the state must be a tree with named leaves, such as a dictionary")
    # Orbax joins the keys with dots to name what it stores.
    if len({".".join(name) for name in leaves}) < len(leaves):
        raise ValueError("two leaves of the state have the same name when joined with dots")
    return leaves


def nest(leaves: Mapping[Name, Any]) -> dict[str, Any]:
    """Nested dictionaries of leaves by name."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        inner = tree
        for key in name[:-1]:
            inner = inner.setdefault(key, {})
        inner[name[-1]] = leaf
    return tree


def describe(leaf: Any) -> dict[str, Any]:
    """Shape and dtype of a leaf, as in the manifest."""
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def empty(described: Mapping[str, Any]) -> dict[Name, np.ndarray]:
    """Arrays, not filled, for the leaves that a manifest describes."""
    return {
        tuple(name.split("/")): np.empty(leaf["shape"], jnp.dtype(leaf["dtype"]))
        for name, leaf in described.items()
    }


def of_each_block(described: Mapping[str, Any]) -> dict[str, Any]:
    """Descriptions of leaves as if no blocks were stacked, see `models.layers.Blocks`."""
    leaves: dict[str, Any] = {}
    for name, leaf in described.items():
        keys = name.split("/")
        at = next((i for i, key in enumerate(keys) if stacked_range(key)), None)
        if at is None:
            leaves[name] = leaf
            continue
        first, last = stacked_range(keys[at]) or (0, -1)
        for block in range(first, last + 1):
            keys[at] = str(block)
            leaves["/".join(keys)] = {**leaf, "shape": leaf["shape"][1:]}
    return leaves


def dtype_and_shape(described: Mapping[str, Any]) -> str:
    """For instance `float32 (7, 5)`."""
    return f"{described['dtype']} ({', '.join(map(str, described['shape']))})"


def differences(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """One line per name whose description differs or that only one of two trees has."""
    lines = []
    for name in sorted(stored.keys() | expected.keys()):
        if name not in expected:
            lines.append(f"{name}: stored {dtype_and_shape(stored[name])}, not expected")
        elif name not in stored:
            lines.append(f"{name}: expected {dtype_and_shape(expected[name])}, not stored")
        elif stored[name] != expected[name]:
            found = dtype_and_shape(stored[name])
            lines.append(f"{name}: stored {found}, expected {dtype_and_shape(expected[name])}")
    more = [f"... and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    return lines[:_MOST_LINES] + more
