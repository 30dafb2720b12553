"""Features of a frozen teacher as targets."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jaxtyping import Float, UInt8

from maskfeat_jax import pictures
from maskfeat_jax.flops import encoder_products, output_width
from maskfeat_jax.losses import MSE, Cosine, Loss, SmoothL1
from maskfeat_jax.models import create_encoder
from maskfeat_jax.models.layers import Dense, LayerNorm, check_choice
from maskfeat_jax.ops.neighbours import unit
from maskfeat_jax.ops.patches import Size3, token_grid
from maskfeat_jax.targets.base import Inputs, Target
from maskfeat_jax.typing import Array, PyTree

NORMALISE = ("l2", "layer_norm", "none")
DISTANCES = ("cosine", "mse", "smooth_l1")
PREDICTED = (-3.0, 3.0)  # standard deviations of a component that are drawn as 0 and 255


@dataclasses.dataclass(frozen=True)
class Features(Target):
    """Tokens of a frozen encoder that sees the whole clip.

    An image teacher (`clip` of one frame) sees the first frame of each tubelet, others the clip.
    Frames are resized to those of `clip` (antialiased bicubic), tokens to the grid of the model,
    see `resampled`.

    Attributes:
      tubelet: frames, rows and columns of one token of the model, pixels.
      file: of the teacher: a run, a checkpoint, or a PyTorch file that `convert` reads.
      sha256: of this file, in hexadecimal digits; of a run, that of the manifest of its step.
        Filled in from the file.
      model: the encoder, as in the section `model` of a recipe. Filled in from the file.
      clip: frames, height and width that the teacher sees. Positions of the file are interpolated
        if they are for another size. Filled in from the file.
      mean: of the teacher's normalisation of pixels, on the scale 0 to 1. Filled in from the file.
      std: likewise.
      block: index of the block whose tokens are taken; negative ones count from the end.
      norm: apply the layer norm that follows the last block.
      projection: values of the linear map that follows the norm (512 in CLIP's ViT-B/16, to the
        space of texts); 0 not to apply it.
      normalise: each token: "l2", to unit length; "layer_norm", to zero mean and unit variance; or
        "none".
      distance: the loss: "cosine", `2 - 2 cos`; "mse"; or "smooth_l1".
      beta: of the smooth L1 loss.
      dtype: of the teacher's computation.

    With "l2", "mse" is `dim` times smaller than "cosine", and so is its gradient.

    Source: MaskFeat (arXiv:2112.09133) section 3.2, with L2 and cosine; `projection` of CLIP is
    predicted by EVA (arXiv:2211.07636), as in mmpretrain; "layer_norm" and "smooth_l1" are those of
    data2vec (arXiv:2202.03555).
    """

    tubelet: Size3
    file: str = ""
    sha256: str = ""
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    clip: Size3 = (1, 224, 224)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    block: int = -1
    norm: bool = True
    projection: int = 0
    normalise: str = "l2"
    distance: str = "cosine"
    beta: float = 2.0
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        check_choice("normalise", self.normalise, NORMALISE)
        check_choice("distance", self.distance, DISTANCES)
        object.__setattr__(self, "model", hashable(self.model))
        if not self.model:
            raise ValueError("file: missing; set it to the teacher (or `model` to its encoder)")
        if self.projection < 0:
            raise ValueError(f"projection={self.projection} is negative")
        if min(self.clip) < 1:
            raise ValueError(f"clip={self.clip} must be positive")
        if min(self.std) <= 0:
            raise ValueError(f"std={self.std} must be positive")
        self.loss, self._shapes  # noqa: B018  check beta; block, clip and model

    @property
    def dim(self) -> int:
        """Values per token."""
        tokens, _ = self._shapes
        return tokens.shape[-1]

    @property
    def loss(self) -> Loss:
        """See `Target`."""
        if self.distance == "smooth_l1":
            return SmoothL1(self.beta)
        return Cosine() if self.distance == "cosine" else MSE()

    @property
    def teacher(self) -> PyTree:
        """See `Target`: `encoder` and perhaps `norm` and `projection`.

        In `dtype`, but for scales and biases, which a norm needs in float32.
        """

        def stored(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
            wide = path[-1].key in ("scale", "bias")
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype if wide else jnp.dtype(self.dtype))

        _, params = self._shapes
        return jax.tree_util.tree_map_with_path(stored, params)

    def teacher_products(self, clip: Size3) -> int:
        """See `Target`."""
        encoder = self._network.encoder
        products = encoder_products(encoder, self.clip)
        tokens = math.prod(encoder.grid(self.clip))
        products += tokens * output_width(encoder) * self.projection
        return products * (clip[0] // self.tubelet[0] if self.clip[0] == 1 else 1)

    def __call__(self, inputs: Inputs) -> Float[Array, "b gt gh gw d"]:
        """Normalised features by token."""
        grid = token_grid(inputs.clips.shape[1:4], self.tubelet)
        tokens: Any = self._network.apply({"params": inputs.teacher}, self._seen(inputs))
        tokens = tokens.reshape(len(inputs.clips), -1, *tokens.shape[2:])  # frames of an image
        return normalised(resampled(tokens, grid), self.normalise)

    def restore(
        self, features: Float[Array, "b gt gh gw d"], inputs: Inputs, *, predicted: bool
    ) -> Float[Array, "b gt gh gw 3"]:
        """The first three principal components of the clip's true features, from 0 to 1."""
        true = self(inputs)
        if self.distance == "cosine":  # the length of a prediction is not trained
            features, true = unit(features), unit(true)
        return jax.vmap(_as_colours)(features, true)

    def draw(
        self, features: Float[np.ndarray, "gh gw 3"], mean: Sequence[float], std: Sequence[float]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Each component as a colour."""
        _, height, width = self.tubelet
        return pictures.to_uint8(features.repeat(height, 0).repeat(width, 1))

    @functools.cached_property
    def _network(self) -> Teacher:
        fields = {**self.model, "dtype": self.dtype, "attention": "auto"}
        fields |= {"drop_path": 0.0, "remat": False}
        try:
            encoder = create_encoder(fields.pop("encoder", ""), **fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"model={dict(self.model)} is no encoder: {error}") from error
        if not -encoder.depth <= self.block < encoder.depth:
            raise ValueError(f"block={self.block}: the teacher has {encoder.depth} blocks")
        shortened = encoder.shortened(self.block % encoder.depth + 1)
        if self.norm and getattr(shortened, "stages", ()) != getattr(encoder, "stages", ()):
            raise ValueError(f"block={self.block} is not in the last stage; set norm to False")
        return Teacher(shortened, self.norm, self.projection)

    @functools.cached_property
    def _shapes(self) -> tuple[Any, Any]:
        """Shapes of the tokens of a clip, and of the parameters."""
        clips = jax.ShapeDtypeStruct((1, *self.clip, 3), np.float32)
        key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
        tokens, variables = jax.eval_shape(self._network.init_with_output, key, clips)
        return tokens, variables["params"]

    def _seen(self, inputs: Inputs) -> Float[Array, "n t h w 3"]:
        """The clips as the teacher takes them; for an image teacher, a clip for each frame."""
        clips = inputs.clips
        if self.clip[0] == 1:
            clips = clips[:, :: self.tubelet[0]].reshape(-1, 1, *clips.shape[2:])
        elif len(clips[0]) != self.clip[0]:
            raise ValueError(
                f"the teacher takes clips of {self.clip[0]} frames, those of the view have "
                f"{len(clips[0])}; set target.clip to interpolate its positions"
            )
        shape = (*clips.shape[:2], *self.clip[1:], 3)
        if clips.shape != shape:
            clips = jax.image.resize(clips, shape, "cubic")
        net_mean, net_std, mean, std = (
            np.asarray(numbers, np.float32)
            for numbers in (inputs.normalise.mean, inputs.normalise.std, self.mean, self.std)
        )
        return clips * (net_std / std) + (net_mean - mean) / std


class Teacher(nn.Module):
    """Tokens of the grid of an encoder, at least in float32.

    Attributes:
      encoder: outputs the class token, if it has one, and the tokens of the grid.
      normed: apply a layer norm.
      outputs: of a linear map that follows; 0 for none.
    """

    encoder: nn.Module
    normed: bool
    outputs: int

    @nn.compact
    def __call__(self, clips: Float[Array, "b t h w 3"]) -> Float[Array, "b gt gh gw d"]:
        """Encodes clips."""
        tokens = self.encoder(clips)[:, self.encoder.class_tokens :]
        tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
        if self.normed:
            tokens = LayerNorm(self.encoder.epsilon, name="norm")(tokens)
        if self.outputs:
            tokens = Dense(self.outputs, tokens.dtype, name="projection")(tokens)
        return tokens.reshape(len(clips), *self.encoder.grid(clips.shape[1:4]), -1)


def hashable(section: Mapping[str, Any]) -> FrozenDict:
    """The section of an encoder, perhaps from JSON, as a part of a target, which is hashable."""
    return FrozenDict({k: tuple(v) if isinstance(v, list) else v for k, v in section.items()})


def resampled(
    tokens: Float[Array, "b gt gh gw d"], grid: Size3
) -> Float[Array, "b new_t new_h new_w d"]:
    """Tokens on another grid: means of whole groups where a length is divided, else linear."""
    for axis, length in enumerate(grid, 1):
        shape = (*tokens.shape[:axis], length, *tokens.shape[axis + 1 :])
        if tokens.shape[axis] % length:
            tokens = jax.image.resize(tokens, shape, "linear")
        else:
            groups = tokens.reshape(*shape[: axis + 1], -1, *shape[axis + 1 :])
            tokens = groups.mean(axis + 1)
    return tokens


def normalised(tokens: Float[Array, "*rows d"], how: str) -> Float[Array, "*rows d"]:
    """Each token normalised, see `Features`."""
    if how == "l2":
        return unit(tokens)
    return jax.nn.standardize(tokens, epsilon=1e-5) if how == "layer_norm" else tokens


def _as_colours(
    features: Float[Array, "gt gh gw d"], true: Float[Array, "gt gh gw d"]
) -> Float[Array, "gt gh gw 3"]:
    """Projects features of a clip on principal components of the true ones, scaled to [0, 1]."""
    rows = true.reshape(-1, true.shape[-1])
    centred = rows - rows.mean(0)
    _, vectors = jnp.linalg.eigh(centred.T @ centred)
    axes = vectors[:, :-4:-1]  # eigenvalues grow
    low, high = (PREDICTED[i] * (centred @ axes).std(0) for i in (0, 1))
    return ((features - rows.mean(0)) @ axes - low) / jnp.maximum(high - low, 1e-12)
