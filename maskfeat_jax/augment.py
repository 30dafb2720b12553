"""Normalisation, augmentation and mixing of a batch on the device.

Random numbers are drawn once per clip, for all its frames. They depend on the key and on the
position in the batch only.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key, UInt8

from maskfeat_jax.typing import Array

Clips = Float[Array, "b t h w 3"]


@jax.tree_util.register_static  # constants of what is compiled
@dataclasses.dataclass(frozen=True)
class Normalise:
    """Maps uint8 pixels to `(value / 255 - mean) / std`.

    Attributes:
      mean: of each colour channel, on the scale 0 to 1.
      std: of each colour channel, on the scale 0 to 1.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __call__(self, video: UInt8[Array, "b t h w 3"]) -> Clips:
        """Normalised float32 clips."""
        return (video.astype(jnp.float32) / 255 - self._row(self.mean)) / self._row(self.std)

    def _row(self, values: tuple[float, float, float]) -> np.ndarray:
        return np.asarray(values, np.float32)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random flips and erasing of normalised clips, one draw per clip.

    Attributes:
      flip: probability of a horizontal flip.
      erase: probability of random erasing: one box of 2 % to a third of the frame, its ratio of
        height to width log-uniform in [0.3, 1 / 0.3], filled with standard normal noise; the same
        box on all frames, fresh noise on each.

    Source: PySlowFast slowfast/datasets/random_erasing.py, "pixel" mode.
    """

    flip: float = 0.5
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is not a probability")

    def __call__(self, key: Key[Array, ""], clips: Clips) -> Clips:
        """Augmented clips."""
        _, erase_key = jax.random.split(key)
        if self.flip:
            flipped = self.flipped(key, len(clips))[:, None, None, None, None]
            clips = jnp.where(flipped, clips[:, :, :, ::-1], clips)
        return random_erasing(erase_key, clips, self.erase) if self.erase else clips

    def flipped(self, key: Key[Array, ""], b: int) -> Bool[Array, " b"]:
        """Which of `b` clips are flipped."""
        flip_key, _ = jax.random.split(key)
        return jax.random.bernoulli(flip_key, float(self.flip), (b,))


def random_erasing(key: Key[Array, ""], clips: Clips, probability: float) -> Clips:
    """Fills one random box of some clips with noise; see `Augment`."""
    b, _, height, width, _ = clips.shape
    tries = 10
    keys = jax.random.split(key, 6)
    area = height * width * jax.random.uniform(keys[0], (b, tries), minval=0.02, maxval=1 / 3)
    log_ratio = jax.random.uniform(keys[1], (b, tries), minval=np.log(0.3), maxval=-np.log(0.3))
    rows = jnp.round(jnp.sqrt(area * jnp.exp(log_ratio))).astype(int)
    columns = jnp.round(jnp.sqrt(area / jnp.exp(log_ratio))).astype(int)
    fits = (rows < height) & (columns < width)
    first = jnp.argmax(fits, axis=1)[:, None]
    rows, columns = (jnp.take_along_axis(x, first, axis=1)[:, 0] for x in (rows, columns))
    top = jnp.floor(jax.random.uniform(keys[2], (b,)) * (height - rows + 1)).astype(int)
    left = jnp.floor(jax.random.uniform(keys[3], (b,)) * (width - columns + 1)).astype(int)
    chosen = jax.random.bernoulli(keys[4], float(probability), (b,)) & fits.any(axis=1)
    box = _boxes(top, rows, height)[:, :, None] & _boxes(left, columns, width)[:, None]
    box = (box & chosen[:, None, None])[:, None, :, :, None]
    return jnp.where(box, jax.random.normal(keys[5], clips.shape, clips.dtype), clips)


@dataclasses.dataclass(frozen=True)
class Mix:
    """Mixup or CutMix of clips in pairs, and label smoothing.

    Attributes:
      mixup: the parameter of mixup's Beta distribution.
      cutmix: the parameter of CutMix's Beta distribution.
      probability: that a group is mixed at all.
      switch: probability of CutMix instead of mixup for a group that is mixed.
      group: clips that share one draw; each is mixed with its counterpart in the reversed group.
        The originals mix the clips of one GPU. Must divide the batch.
      smoothing: share of the label spread evenly over all classes.

    Source: PySlowFast slowfast/datasets/mixup.py.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    probability: float = 1.0
    switch: float = 0.5
    group: int = 64
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        for name in ("probability", "switch", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is not between 0 and 1")
        if self.mixup <= 0 or self.cutmix <= 0 or self.group < 1:
            raise ValueError(
                f"mixup={self.mixup}, cutmix={self.cutmix}, group={self.group} must be positive; "
                "probability=0 turns mixing off"
            )

    def __call__(
        self, key: Key[Array, ""], clips: Clips, labels: Int[Array, b], classes: int
    ) -> tuple[Clips, Float[Array, "b classes"]]:
        """Mixed clips and soft labels; a clip and its `partner` have the same weights in both."""
        targets = self.smooth(labels, classes)
        if not self.probability:
            return clips, targets
        b, _, height, width, _ = clips.shape
        groups = b // self.group
        keys = jax.random.split(key, 6)
        cut = jax.random.bernoulli(keys[0], float(self.switch), (groups,))
        own = jnp.where(
            cut,
            jax.random.beta(keys[1], self.cutmix, self.cutmix, (groups,)),
            jax.random.beta(keys[2], self.mixup, self.mixup, (groups,)),
        )
        own = jnp.where(jax.random.bernoulli(keys[3], float(self.probability), (groups,)), own, 1.0)
        side = jnp.sqrt(1 - own)
        box = _cut_box(keys[4], height, side)[:, :, None] & _cut_box(keys[5], width, side)[:, None]
        own = jnp.where(cut, 1 - box.mean((1, 2)), own)

        def per_clip(x: Array) -> Array:  # repeats the draw of a group for each of its clips
            return jnp.repeat(x, self.group, axis=0)

        share, box = per_clip(own)[:, None], per_clip(box)[:, None, :, :, None]
        blend = share[:, :, None, None, None]
        other = self.partner(clips)
        mixed = blend * clips + (1 - blend) * other
        pasted = jnp.where(box, other, clips)
        clips = jnp.where(per_clip(cut)[:, None, None, None, None], pasted, mixed)
        return clips, share * targets + (1 - share) * self.partner(targets)

    def smooth(self, labels: Int[Array, b], classes: int) -> Float[Array, "b classes"]:
        """Smoothed one-hot labels."""
        return jax.nn.one_hot(labels, classes) * (1 - self.smoothing) + self.smoothing / classes

    def partner(self, rows: Array) -> Array:
        """For each row of a batch, the row that it is mixed with."""
        grouped = rows.reshape(-1, self.group, *rows.shape[1:])
        return grouped[:, ::-1].reshape(rows.shape)


def _boxes(start: Int[Array, b], length: Int[Array, b], size: int) -> Array:
    """True where `start <= position < start + length`; `(b, size)`."""
    position = jnp.arange(size)[None]
    return (position >= start[:, None]) & (position < (start + length)[:, None])


def _cut_box(key: Key[Array, ""], size: int, side: Float[Array, groups]) -> Array:
    """CutMix's box along one axis: uniform centre, clipped to the frame."""
    half = jnp.floor(size * side).astype(int) // 2
    centre = jax.random.randint(key, side.shape, 0, size)
    low = jnp.clip(centre - half, 0, size)
    return _boxes(low, jnp.clip(centre + half, 0, size) - low, size)
