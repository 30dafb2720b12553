"""The base class of targets."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from maskfeat_jax.augment import Normalise
from maskfeat_jax.losses import MSE, Loss
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.typing import Array, PyTree


class LabelMaps(NamedTuple):
    """What a classifier said of images, and where in them clips are.

    Attributes:
      logits: of the likeliest classes at each position of the images; others have the logit 0.
      classes: of these logits.
      boxes: of the clips: left, top, right, bottom, as fractions of their images.
      flipped: whether the clip was flipped afterwards.
    """

    logits: Float[Array, "b k h w"]
    classes: Int[Array, "b k h w"]
    boxes: Float[Array, "b 4"]
    flipped: Bool[Array, " b"]


class Inputs(NamedTuple):
    """What the targets of a batch are computed from.

    Attributes:
      clips: normalised, augmented, unmasked; float32 `(b, t, h, w, 3)`.
      normalise: how their pixels were normalised.
      teacher: weights of the target's frozen networks, in the shapes of `Target.teacher`.
      label_maps: of the images of the clips; None if the data has none.
    """

    clips: Float[Array, "b t h w 3"]
    normalise: Normalise = Normalise()
    teacher: PyTree = ()
    label_maps: LabelMaps | None = None


class Target(abc.ABC):
    """What is predicted for each tubelet of a clip: a frozen dataclass.

    Attributes:
      tubelet: frames, rows and columns of one token, pixels; set from the model.
    """

    tubelet: Size3

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Values that the model predicts for each token."""

    @property
    def loss(self) -> Loss:
        """Compares predictions with the targets."""
        return MSE()

    @property
    def teacher(self) -> PyTree:
        """Shapes and dtypes of the weights of frozen networks; empty if the target needs none."""
        return ()

    def teacher_products(self, clip: Size3) -> int:
        """Multiply-adds of the frozen networks for a clip of so many frames, rows and columns."""
        return 0

    @property
    def map_classes(self) -> int:
        """Number of classes of the label maps that the target needs; 0 if it needs none."""
        return 0

    @abc.abstractmethod
    def __call__(self, inputs: Inputs) -> PyTree:
        """The targets, arrays `(b, gt, gh, gw, ...)`; the training step stops their gradient."""

    def restore(self, features: PyTree, inputs: Inputs, *, predicted: bool) -> PyTree:
        """Targets in the form that `draw` takes, arrays `(b, gt, gh, gw, d)`.

        Args:
          features: outputs of the model, `(b, gt, gh, gw, dim)`, or targets.
          inputs: of the same clips.
          predicted: whether `features` are those of the model.
        """
        return features

    @abc.abstractmethod
    def draw(
        self, features: PyTree, mean: Sequence[float], std: Sequence[float]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """A picture of the restored features of one frame of tokens, arrays `(gh, gw, d)`.

        Args:
          features: output of `restore`.
          mean: of the normalisation of colour channels, on the scale of pixels / 255.
          std: likewise.
        """

    def named(self, class_names: Sequence[str]) -> Target:
        """The target for drawing, with the names of the classes of the data."""
        return self
