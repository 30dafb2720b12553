"""Encoder and decoder of DALL-E's discrete variational autoencoder.

The encoder maps an image to a grid of ids of a vocabulary, one for each 8x8 pixels; the decoder
maps ids back to an image. Both compute in `dtype`, the last convolution of the encoder in float32.

Source: openai/DALL-E dall_e/encoder.py, decoder.py and utils.py (arXiv:2102.12092, appendix A).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from maskfeat_jax.typing import Array

STRIDE = 8  # pixels per token along height and width
GROUPS = (1, 2, 4, 8)  # of blocks, by their channels relative to `hidden`
_MARGIN = 0.1  # pixels are in [0.1, 0.9], away from the ends of the decoder's distribution


def map_pixels(colours: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Colours from the range [0, 1] to the encoder's."""
    return (1 - 2 * _MARGIN) * colours + _MARGIN


def unmap_pixels(colours: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The inverse of `map_pixels`, clipped to [0, 1]."""
    return jnp.clip((colours - _MARGIN) / (1 - 2 * _MARGIN), 0, 1)


class DvaeEncoder(nn.Module):
    """Four groups of residual blocks, with a maximum over 2x2 pixels between them; no norms.

    Attributes:
      hidden: channels of the first group; doubled by each further one.
      blocks: of a group.
      vocabulary: number of ids.
      dtype: of the computation and the parameters, but for the last convolution.
    """

    hidden: int = 256
    blocks: int = 2
    vocabulary: int = 8192
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"]
    ) -> Float[Array, "b gh gw {self.vocabulary}"]:
        """float32 logits of the ids of each token.

        Args:
          images: output of `map_pixels`; height and width are multiples of 8.
        """
        x = _conv(self.hidden, 7, self.dtype, "input")(images)
        for i, channels in enumerate(GROUPS):
            if i:
                x = nn.max_pool(x, (2, 2), (2, 2))
            width, name = self.hidden * channels, f"group_{i + 1}"
            x = _Group(width, self.blocks, (3, 3, 3, 1), self.dtype, name=name)(x)
        return _conv(self.vocabulary, 1, jnp.float32, "output")(nn.relu(x))


class DvaeDecoder(nn.Module):
    """The mirror of the encoder: pixels are doubled between the groups.

    Attributes:
      hidden, blocks, dtype: as of `DvaeEncoder`.
      vocabulary: number of ids.
      initial: channels of the vectors of ids.
    """

    hidden: int = 256
    blocks: int = 2
    vocabulary: int = 8192
    initial: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b gh gw"]) -> Float[Array, "b h w 3"]:
        """float32 images in [0, 1], the mode of each pixel's distribution."""
        x = _Vectors(self.vocabulary, self.initial, self.dtype, name="input")(ids)
        for i, channels in enumerate(reversed(GROUPS)):
            if i:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            width, name = self.hidden * channels, f"group_{i + 1}"
            x = _Group(width, self.blocks, (1, 3, 3, 3), self.dtype, name=name)(x)
        x = _conv(6, 1, self.dtype, "output")(nn.relu(x))  # location and scale of each colour
        return unmap_pixels(jax.nn.sigmoid(x[..., :3].astype(jnp.float32)))


class _Group(nn.Module):
    """Residual blocks of equal width; the branches of all blocks of the network have one gain."""

    channels: int
    blocks: int
    sizes: tuple[int, int, int, int]  # of the kernels of a branch
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.channels}"]:
        gain = (len(GROUPS) * self.blocks) ** -2
        for i in range(1, self.blocks + 1):
            x = _Block(self.channels, self.sizes, gain, self.dtype, name=f"block_{i}")(x)
        return x


class _Block(nn.Module):
    """`x + gain * branch(x)`, with a linear map of `x` where the width changes."""

    channels: int
    sizes: tuple[int, int, int, int]
    gain: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.channels}"]:
        branch = x
        widths = (self.channels // 4,) * 3 + (self.channels,)
        for i, (width, size) in enumerate(zip(widths, self.sizes, strict=True), 1):
            branch = _conv(width, size, self.dtype, f"conv_{i}")(nn.relu(branch))
        if x.shape[-1] != self.channels:
            x = _conv(self.channels, 1, self.dtype, "id_path")(x)
        return x + self.gain * branch


class _Vectors(nn.Module):
    """The 1x1 convolution of one-hot ids: a row of its kernel for each."""

    vocabulary: int
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, ids: Int[Array, "b h w"]) -> Float[Array, "b h w {self.channels}"]:
        shape = (1, 1, self.vocabulary, self.channels)
        kernel = self.param("kernel", _INIT, shape, self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), self.dtype)
        return kernel[0, 0][ids] + bias


_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def _conv(channels: int, size: int, dtype: Any, name: str) -> nn.Conv:
    """A convolution that keeps height and width, with zeros around the image."""
    return nn.Conv(
        channels, (size, size), dtype=dtype, param_dtype=dtype, kernel_init=_INIT, name=name
    )
