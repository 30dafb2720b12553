"""Several targets at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from flax.core import FrozenDict
from jaxtyping import UInt8

from maskfeat_jax import pictures
from maskfeat_jax.losses import Part, Weighted
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.targets.base import Inputs, Target
from maskfeat_jax.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Sum(Target):
    """The weighted mean of the losses of several targets, each predicted by its own linear map.

    Attributes:
      tubelet: frames, rows and columns of one token, pixels.
      parts: targets by name.
      weights: of the loss of each part; 1 for those left out. They are divided by their sum.

    Source: MaskFeat (arXiv:2112.09133) section 5, HOG and pixels with equal weights.
    """

    tubelet: Size3
    parts: Mapping[str, Target]
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("parts", "weights"):  # hashable, as other targets are, in one order
            object.__setattr__(self, name, FrozenDict(sorted(getattr(self, name).items())))
        if not self.parts:
            raise ValueError("parts: empty; name one target or more")
        if unknown := self.weights.keys() - self.parts.keys():
            raise ValueError(
                f"weights.{min(unknown)}: no such part; there are {', '.join(self.parts)}"
            )
        for name, weight in self.weights.items():
            if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise ValueError(f"weights.{name}={weight!r}: expected a number of 0 or more")
        if not sum(self._weight(name) for name in self.parts):
            raise ValueError(f"weights={dict(self.weights)}: their sum is zero")
        if len({part.map_classes for part in self.parts.values()} - {0}) > 1:
            raise ValueError("parts: two of them need label maps of different numbers of classes")

    @property
    def dim(self) -> int:
        """Values per token, those of all parts."""
        return sum(part.dim for part in self.parts.values())

    @property
    def loss(self) -> Weighted:
        """See `Target`; reports the loss of each part, too."""
        total = sum(self._weight(name) for name in self.parts)
        return Weighted(
            {
                name: Part(part.loss, part.dim, self._weight(name) / total)
                for name, part in self.parts.items()
            }
        )

    @property
    def teacher(self) -> PyTree:
        """See `Target`; by part."""
        return {name: part.teacher for name, part in self.parts.items()}

    def teacher_products(self, clip: Size3) -> int:
        """See `Target`."""
        return sum(part.teacher_products(clip) for part in self.parts.values())

    @property
    def map_classes(self) -> int:
        """See `Target`."""
        return max(part.map_classes for part in self.parts.values())

    def __call__(self, inputs: Inputs) -> dict[str, PyTree]:
        """The targets of each part."""
        return {name: part(self._of(name, inputs)) for name, part in self.parts.items()}

    def restore(self, features: PyTree, inputs: Inputs, *, predicted: bool) -> dict[str, PyTree]:
        """See `Target`; by part."""
        own = self.loss.split(features) if predicted else features
        return {
            name: part.restore(own[name], self._of(name, inputs), predicted=predicted)
            for name, part in self.parts.items()
        }

    def draw(
        self, features: Mapping[str, PyTree], mean: Sequence[float], std: Sequence[float]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The pictures of all parts, one above the other."""
        drawn = (part.draw(features[name], mean, std) for name, part in self.parts.items())
        return pictures.stack(list(drawn))

    def named(self, class_names: Sequence[str]) -> Sum:
        """See `Target`."""
        parts = {name: part.named(class_names) for name, part in self.parts.items()}
        return dataclasses.replace(self, parts=parts)

    def _weight(self, name: str) -> float:
        return self.weights.get(name, 1.0)

    def _of(self, name: str, inputs: Inputs) -> Inputs:
        return inputs._replace(teacher=inputs.teacher[name]) if inputs.teacher else inputs
