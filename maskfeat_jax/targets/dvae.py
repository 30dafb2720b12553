"""Tokens of a discrete variational autoencoder as targets."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from maskfeat_jax import pictures
from maskfeat_jax.losses import CrossEntropy
from maskfeat_jax.models.dvae import STRIDE, DvaeDecoder, DvaeEncoder, map_pixels
from maskfeat_jax.models.layers import check_choice, check_fields
from maskfeat_jax.ops.patches import Size3, token_grid
from maskfeat_jax.ops.rows import on_own_rows
from maskfeat_jax.targets.base import Inputs, Target
from maskfeat_jax.typing import Array, PyTree

RESIZE = ("mean", "lanczos")


@dataclasses.dataclass(frozen=True)
class Dvae(Target):
    """Ids of the encoder of a discrete variational autoencoder in DALL-E's form.

    The first frame of each token is an image of its own, resized so that the encoder, which has
    an id for each 8x8 pixels, has one for each token.

    Attributes:
      tubelet: frames, rows and columns of one token, pixels.
      file: weights of the encoder: OpenAI's, mmpretrain's or FLAVA's.
      sha256: of `file`.
      decoder: weights of the decoder, for pictures of tokens; without it, each id is a colour.
      hidden, blocks, vocabulary: of the encoder, see `models.dvae`; taken from `file`.
      decoder_hidden, decoder_blocks, decoder_initial: of the decoder; taken from its file.
      resize: "mean" over blocks of pixels, for patches of a multiple of 8; or "lanczos", as Pillow
        resizes the uint8 image, for any patch.
      dtype: of the computation, but for the last convolution; "float32" or "bfloat16", in which
        ids of equal logits may depend on the number of devices.

    Source: MaskFeat (arXiv:2112.09133) section 3.2, BEiT (arXiv:2106.08254); openai/DALL-E.
    """

    tubelet: Size3
    file: str = ""
    sha256: str = ""
    decoder: str = ""
    hidden: int = 256
    blocks: int = 2
    vocabulary: int = 8192
    decoder_hidden: int = 256
    decoder_blocks: int = 2
    decoder_initial: int = 128
    resize: str = "mean"
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        check_choice("resize", self.resize, RESIZE)
        check_fields(0, "auto", self.dtype)
        if min(self.hidden, self.blocks, self.vocabulary) < 1:
            raise ValueError("hidden, blocks and vocabulary must be positive")
        _, height, width = self.tubelet
        if self.resize == "mean" and (height % STRIDE or width % STRIDE):
            raise ValueError(
                f"patch {height}x{width} cannot become the {STRIDE}x{STRIDE} pixels of a token of "
                "the dVAE by a mean over blocks; set resize='lanczos', or a patch of a multiple of "
                f"{STRIDE}"
            )

    @property
    def dim(self) -> int:
        """Ids, each with a logit."""
        return self.vocabulary

    @property
    def loss(self) -> CrossEntropy:
        """See `Target`."""
        return CrossEntropy(self.vocabulary)

    @property
    def encoder_model(self) -> DvaeEncoder:
        """The encoder."""
        return DvaeEncoder(self.hidden, self.blocks, self.vocabulary, jnp.dtype(self.dtype))

    @property
    def decoder_model(self) -> DvaeDecoder:
        """The decoder."""
        return DvaeDecoder(
            self.decoder_hidden,
            self.decoder_blocks,
            self.vocabulary,
            self.decoder_initial,
            jnp.dtype(self.dtype),
        )

    @property
    def teacher(self) -> dict[str, PyTree]:
        """See `Target`."""
        image = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), jnp.float32)
        shapes = {"encoder": _shapes(self.encoder_model, image)}
        if self.decoder:
            ids = jax.ShapeDtypeStruct((1, 1, 1), jnp.int32)
            shapes["decoder"] = _shapes(self.decoder_model, ids)
        return shapes

    def teacher_products(self, clip: Size3) -> int:
        """See `Target`; of the encoder."""
        sides = {"input": 8, "group_1": 8, "group_2": 4, "group_3": 2}  # pixels of a token
        per_token = sum(
            sides.get(module, 1) ** 2 * kernel.size
            for module, arrays in self.teacher["encoder"].items()
            for kernel in jax.tree.leaves(arrays)
            if kernel.ndim == 4
        )
        return math.prod(token_grid(clip, self.tubelet)) * per_token

    def __call__(self, inputs: Inputs) -> Int[Array, "b gt gh gw"]:
        """The ids, int32."""
        mean, std = (
            np.asarray(x, np.float32) for x in (inputs.normalise.mean, inputs.normalise.std)
        )

        def ids(clips: Array, weights: PyTree) -> Array:
            grid = token_grid(clips.shape[1:4], self.tubelet)
            frames = einops.rearrange(clips[:, :: self.tubelet[0]], "b t h w c -> (b t) h w c")
            images = self._resized(jnp.clip(frames * std + mean, 0, 1), grid)
            logits: Any = self.encoder_model.apply({"params": weights}, map_pixels(images))
            return logits.argmax(-1).astype(jnp.int32).reshape(len(clips), *grid)

        return on_own_rows(ids, inputs.clips, weights=inputs.teacher["encoder"])

    def restore(self, features: PyTree, inputs: Inputs, *, predicted: bool) -> Array:
        """The most probable ids, or the pixels that the decoder has for these, `(..., 192)`."""
        ids = features.argmax(-1) if predicted else features
        if not self.decoder:
            return ids[..., None]

        def pixels(ids: Array, weights: PyTree) -> Array:
            frames = einops.rearrange(ids, "b t h w -> (b t) h w")
            images: Any = self.decoder_model.apply({"params": weights}, frames)
            pattern = "(b t) (h p) (w q) c -> b t h w (p q c)"
            return einops.rearrange(images, pattern, b=len(ids), p=STRIDE, q=STRIDE)

        return on_own_rows(pixels, ids, weights=inputs.teacher["decoder"])

    def draw(
        self, features: PyTree, mean: Sequence[float], std: Sequence[float]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The decoded image; without a decoder, the colours of the ids, which have no order."""
        if self.decoder:
            pattern = "h w (p q c) -> (h p) (w q) c"
            return pictures.to_uint8(einops.rearrange(features, pattern, p=STRIDE, q=STRIDE))
        _, height, width = self.tubelet
        return colours(features[..., 0]).repeat(height, axis=0).repeat(width, axis=1)

    def _resized(self, images: Float[Array, "b h w 3"], grid: Size3) -> Float[Array, "b h w 3"]:
        """8x8 pixels for each token."""
        height, width = (STRIDE * count for count in grid[1:])
        if self.resize == "lanczos":
            return lanczos(images, height, width)
        pattern = "b (h p) (w q) c -> b h w c"
        return einops.reduce(images, pattern, "mean", h=height, w=width)


def lanczos(images: Float[Array, "b h w 3"], height: int, width: int) -> Float[Array, "b h w 3"]:
    """Colours in [0, 1] resized as Pillow resizes uint8 images: rounded along each axis."""
    levels = jnp.round(255 * images)
    for axis, size in ((2, width), (1, height)):  # in the order of Pillow
        shape = (*levels.shape[:axis], size, *levels.shape[axis + 1 :])
        levels = jnp.clip(jnp.round(jax.image.resize(levels, shape, "lanczos3")), 0, 255)
    return levels / 255


def colours(ids: Int[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    """A fixed colour for each id, different for neighbours: the upper bits of a product."""
    mixed = np.asarray(ids, np.uint32) * np.uint32(2654435761)
    return np.stack([mixed >> 24, mixed >> 16, mixed >> 8], -1).astype(np.uint8)


@functools.cache
def _shapes(model: Any, inputs: jax.ShapeDtypeStruct) -> PyTree:
    return jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
