"""Classes that a classifier sees at each token as target."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from maskfeat_jax import pictures
from maskfeat_jax.losses import SoftCrossEntropy
from maskfeat_jax.ops.patches import Size3, token_grid
from maskfeat_jax.ops.roi_align import roi_align
from maskfeat_jax.targets.base import Inputs, LabelMaps, Target
from maskfeat_jax.targets.features import Features, hashable
from maskfeat_jax.typing import Array, PyTree


@dataclasses.dataclass(frozen=True)
class PseudoLabel(Target):
    """Probabilities of classes by token: from label maps of the images, or from a classifier.

    Without `file`, the data must have label maps. With it, the layer norm and the linear map of a
    frozen classifier are applied to each of its tokens, instead of to the class token or the mean.

    Attributes:
      tubelet: frames, rows and columns of one token of the model, pixels.
      classes: their number. Filled in from the file.
      names: of the classes, for pictures; by default those of the data if it has as many. Filled in
        from the file.
      file, sha256, model, clip, mean, std, dtype: of the classifier, see `Features`.

    Source: MaskFeat (arXiv:2112.09133) section 3.2; Token Labeling (arXiv:2104.10858), where only
    the classes with the five highest logits are stored, and all others count as logit 0.
    """

    tubelet: Size3
    classes: int = 1000
    names: tuple[str, ...] = ()
    file: str = ""
    sha256: str = ""
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    clip: Size3 = Features.clip
    mean: tuple[float, float, float] = Features.mean
    std: tuple[float, float, float] = Features.std
    dtype: str = Features.dtype

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", hashable(self.model))
        if self.classes < 2:
            raise ValueError(f"classes={self.classes}: expected 2 or more")
        if len(self.names) not in (0, self.classes):
            raise ValueError(f"names: {len(self.names)} for {self.classes} classes")
        self.teacher  # noqa: B018  checks it

    @property
    def dim(self) -> int:
        """Logits per token."""
        return self.classes

    @property
    def loss(self) -> SoftCrossEntropy:
        """See `Target`."""
        return SoftCrossEntropy()

    @property
    def teacher(self) -> PyTree:
        """See `Target`: `encoder`, `norm` and `projection`."""
        return () if self._encoder is None else self._encoder.teacher

    def teacher_products(self, clip: Size3) -> int:
        """See `Target`."""
        return 0 if self._encoder is None else self._encoder.teacher_products(clip)

    @property
    def map_classes(self) -> int:
        """See `Target`."""
        return 0 if self._encoder else self.classes

    def __call__(self, inputs: Inputs) -> Float[Array, "b gt gh gw {self.classes}"]:
        """Probabilities by token."""
        if self._encoder is not None:
            return jax.nn.softmax(self._encoder(inputs))
        frames, rows, columns = token_grid(inputs.clips.shape[1:4], self.tubelet)
        if frames != 1:
            raise ValueError(
                "label maps are of images, but the clips are videos; set target.file to a "
                "classifier"
            )
        if inputs.label_maps is None:
            raise ValueError("the target needs label maps, and these clips have none")
        logits = logits_of_clips(inputs.label_maps, self.classes, (rows, columns))
        return jax.nn.softmax(logits)[:, None]

    def restore(
        self, features: Float[Array, "b gt gh gw d"], inputs: Inputs, *, predicted: bool
    ) -> Float[Array, "b gt gh gw 2"]:
        """The most probable class and its probability."""
        probabilities = jax.nn.softmax(features) if predicted else features
        most = probabilities.argmax(-1).astype(probabilities.dtype)
        return jnp.stack([most, probabilities.max(-1)], -1)

    def draw(
        self, features: Float[np.ndarray, "gh gw 2"], mean: Sequence[float], std: Sequence[float]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """A colour for each class, the greyer the less probable, and names of the largest."""
        classes = features[..., 0].astype(int)
        return pictures.draw_classes(classes, features[..., 1], self.tubelet[1:], self.names)

    def named(self, class_names: Sequence[str]) -> PseudoLabel:
        """See `Target`."""
        fits = not self.names and len(class_names) == self.classes
        return dataclasses.replace(self, names=tuple(class_names)) if fits else self

    @functools.cached_property
    def _encoder(self) -> Features | None:
        """Logits of the classifier at each token; None without one."""
        if not self.model:
            return None
        same = ("tubelet", "file", "sha256", "model", "clip", "mean", "std", "dtype")
        given: dict[str, Any] = {name: getattr(self, name) for name in same}
        return Features(**given, normalise="none", projection=self.classes)


def logits_of_clips(
    maps: LabelMaps, classes: int, grid: tuple[int, int]
) -> Float[Array, "b gh gw {classes}"]:
    """The part of each label map that a clip shows, on a grid of tokens.

    Coordinates are those of Token Labeling's `get_label`: boxes in fractions of the map, less half
    a cell, at least one cell wide. Its data pipeline gives them as top, left, bottom, right to
    `roi_align` of torchvision, which takes x first; here they are where the clip is.
    """
    _, _, height, width = maps.logits.shape
    where = maps.classes[..., None] == jnp.arange(classes)
    # Compared and summed, not scattered: XLA fuses it, and the five classes of a position differ.
    dense = jnp.where(where, maps.logits[..., None].astype(jnp.float32), 0).sum(1)
    boxes = maps.boxes * jnp.asarray([width, height, width, height], jnp.float32) - 0.5
    cut = roi_align(dense, boxes[:, None], grid, aligned=False)[:, 0]
    return jnp.where(maps.flipped[:, None, None, None], cut[:, :, ::-1], cut)
