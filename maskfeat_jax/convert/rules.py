"""Tables that map our parameters to tensors of a PyTorch file, and back.

A table maps our modules, or single parameters, to theirs; `*` stands for the index of a block, `#`
for the number of blocks of a decoder. How a tensor is converted depends on the parameter:

| ours                         | theirs                                                       |
|------------------------------|--------------------------------------------------------------|
| `kernel` `(in, out)`         | `weight` `(out, in)`                                         |
| `kernel` `(t, h, w, c, out)` | `weight` `(out, c, t, h, w)`, or `(out, c, h, w)` where t = 1 |
| `scale`, `bias`              | `weight`, `bias`                                             |
| any other                    | the same                                                     |

`Rule` has the exceptions. Each table is used in both directions.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence

import numpy as np

from maskfeat_jax.checkpoints.trees import Name

_LEAVES = ("kernel", "scale", "bias")  # the parameters of a module


@dataclasses.dataclass(frozen=True)
class Rule:
    """The tensors that hold a module or a parameter.

    Attributes:
      theirs: names of the modules or tensors; several hold equal slices of the outputs, as
        queries, keys and values. Empty: not in files, the model computes it.
      biases: names of the bias tensors if they are not `<module>.bias`, which hold equal slices
        too; None for a slice that is not in files and is zero.
      flat: whether the tensor has lost its leading dimensions of 1.
      volume: whether the kernel keeps its time axis even if its length is 1.
    """

    theirs: tuple[str, ...]
    biases: tuple[str | None, ...] | None = None
    flat: bool = False
    volume: bool = False

    def names(self, leaf: str) -> tuple[str | None, ...]:
        """Names of the tensors that hold a parameter; None for a slice that is not in files."""
        if leaf not in _LEAVES:
            return self.theirs
        if leaf == "bias" and self.biases is not None:
            return self.biases
        last = "bias" if leaf == "bias" else "weight"
        return tuple(f"{module}.{last}" for module in self.theirs)

    def to_torch(self, leaf: str, array: np.ndarray) -> list[np.ndarray]:
        """Converts a parameter to the tensors of `names`."""
        if leaf == "kernel":
            image = array.ndim == 5 and array.shape[0] == 1 and not self.volume
            array = array.transpose((1, 0) if array.ndim == 2 else (4, 3, 0, 1, 2))
            array = array[:, :, 0] if image else array
        while self.flat and array.shape[0] == 1:
            array = array[0]
        return np.split(array, len(self.names(leaf)))

    def from_torch(self, leaf: str, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """The inverse of `to_torch`."""
        array = tensors[0] if len(tensors) == 1 else np.concatenate(tensors)
        if leaf == "kernel":
            array = array[:, :, None] if array.ndim == 4 else array
            array = array.transpose((1, 0) if array.ndim == 2 else (2, 3, 4, 1, 0))
        return array.reshape((1,) * (3 - array.ndim) + array.shape) if self.flat else array

    def renamed(self, change: Mapping[str, str] | Sequence[str], prefix: str = "") -> Rule:
        """A copy with substrings of the names replaced and a prefix added."""
        pairs = list(change.items()) if isinstance(change, Mapping) else [("*", n) for n in change]

        def new(name: str) -> str:
            for old, text in pairs:
                name = name.replace(old, text, 1)
            return prefix + name

        biases = self.biases and tuple(name and new(name) for name in self.biases)
        return dataclasses.replace(self, theirs=tuple(map(new, self.theirs)), biases=biases)


Rows = Mapping[str, str | Rule]
Table = Mapping[str, Rule]
COMPUTED = Rule(())


def table(*tables: Rows, depth: int | None = None) -> dict[str, Rule]:
    """Merges tables, of which later ones override; `depth` replaces `#`, unless it is None."""
    rows = {ours: theirs for rows in tables for ours, theirs in rows.items()}
    rules = {ours: Rule((row,)) if isinstance(row, str) else row for ours, row in rows.items()}
    if depth is None:
        return rules
    return {ours: rule.renamed({"#": str(depth)}) for ours, rule in rules.items()}


def below(ours: str, theirs: str, rows: Rows) -> dict[str, Rule]:
    """A table with prefixes added to our names and to theirs."""
    return {f"{ours}{name}": rule.renamed({}, theirs) for name, rule in table(rows).items()}


def rule_of(rows: Table, name: Name) -> Rule | None:
    """The rule for a parameter, with the index of its block; None if the table has none."""
    plain = ["*" if part.isdigit() else part for part in name]
    found = rows.get("/".join(plain))
    if found is None and name[-1] in _LEAVES:
        found = rows.get("/".join(plain[:-1]))
    return found and found.renamed([part for part in name if part.isdigit()])


class Reader:
    """The inverse of a table: their names to ours."""

    def __init__(self, rows: Table):
        self._plain: dict[str, tuple[str, int]] = {}
        self._numbered: list[tuple[re.Pattern[str], str, int]] = []
        for ours, rule in rows.items():
            for leaf in _LEAVES if _is_module(ours) else ("",):
                for index, name in enumerate(rule.names(leaf)):
                    if name is None or leaf == "scale":  # has the name of a kernel
                        continue
                    path = f"{ours}/{leaf}" if leaf else ours
                    if "*" in name or "#" in name:
                        self._numbered.append((_pattern(name), path, index))
                    else:
                        self._plain[name] = (path, index)

    def __call__(self, name: str, shape: Sequence[int]) -> tuple[Name, int] | None:
        """The parameter that a tensor holds, and the index of its slice; None if it holds none."""
        found = self._plain.get(name)
        for pattern, path, index in () if found else self._numbered:
            if match := pattern.fullmatch(name):
                found = (functools.reduce(_fill, match.groups(), path), index)
                break
        if found is None:
            return None
        path, index = found
        if path.endswith("/kernel") and len(shape) == 1:
            path = path.removesuffix("kernel") + "scale"
        return tuple(path.split("/")), index


def _fill(path: str, number: str) -> str:
    return path.replace("*", number, 1)


def _is_module(ours: str) -> bool:
    last = ours.rsplit("/", 1)[-1]
    return not re.fullmatch(r".*_token|pos_embed.*|rel_pos_.|mean|var", last)


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\*", r"(\d+)").replace(r"\#", r"\d+"))
