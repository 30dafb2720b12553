"""Layers shared by the models. The names of submodules are part of the checkpoint format."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Key

from maskfeat_jax.ops.attention import KERNELS, attention
from maskfeat_jax.ops.devices import device_of_trace
from maskfeat_jax.ops.linear import affine, gelu, layer_norm, quick_gelu
from maskfeat_jax.ops.residuals import keep, kept
from maskfeat_jax.ops.rows import split_heads, split_kernel, split_rows
from maskfeat_jax.typing import Array

NORMAL = nn.initializers.normal(0.02)  # the originals truncate at 100 standard deviations
# Initialisers of linear maps: PySlowFast's and MAE's (one matrix for query, key and value).
INITS = {"normal": NORMAL, "xavier": nn.initializers.xavier_uniform()}
ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu}
UNROLLED = 16  # blocks of an encoder (ViT-B, MViT-S) that a CPU does not scan
Params = Any  # nested dict of arrays
Initialiser = Callable[..., Array]


def uniform(fan_in: int) -> Initialiser:
    """Initialiser: uniform in +-1/sqrt(fan_in), PyTorch's for the bias of a convolution."""
    bound = fan_in**-0.5

    def init(key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    return init


class Dense(nn.Module):
    """Linear map of the last axis, computed in `dtype`, with parameters in float32.

    Attributes:
      features: of the output.
      dtype: of the computation.
      kernel_init: initialiser of the kernel.
      heads: attention heads that the last axis of the input consists of; 0 for another input.
    """

    features: int
    dtype: Any = jnp.float32
    kernel_init: Initialiser = NORMAL
    heads: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "*lead inner"]) -> Float[Array, "*lead outer"]:
        """Applies the map."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if not self.heads:
            return split_rows(affine(x.astype(self.dtype), kernel, bias))
        from_heads = functools.partial(split_kernel, heads=self.heads, axis=0)
        return split_rows(affine(x.astype(self.dtype), kernel, bias, from_heads))


class Qkv(nn.Module):
    """Linear map to the queries, keys and values of all heads, with one kernel `(d, 3 * width)`.

    Attributes:
      width: of the queries of all heads together.
      heads: attention heads.
      dtype: of the computation.
      kernel_init: initialiser of the kernel.
    """

    width: int
    heads: int
    dtype: Any = jnp.float32
    kernel_init: Initialiser = NORMAL

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> list[Float[Array, "b n {self.heads} size"]]:
        """Queries, keys and values."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], 3 * self.width))
        bias = self.param("bias", nn.initializers.zeros, (3 * self.width,))
        x, shape = x.astype(self.dtype), (self.heads, self.width // self.heads)
        to_heads = functools.partial(split_kernel, heads=self.heads, axis=1)
        # Three products: of one, the parts and the parts' gradients would be copied.
        parts = zip(jnp.split(kernel, 3, axis=1), jnp.split(bias, 3), strict=True)
        qkv = (keep(affine(x, *part, to_heads)) for part in parts)
        return [split_heads(part.reshape(*x.shape[:2], *shape)) for part in qkv]


class LayerNorm(nn.Module):
    """Layer norm over the last axis, computed in float32."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*lead d"]) -> Float[Array, "*lead d"]:
        """Applies the norm."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return layer_norm(split_rows(x), scale, bias, self.epsilon)


class Attention(nn.Module):
    """Multi-head self-attention."""

    heads: int
    kernel: str = "auto"
    dtype: Any = jnp.float32
    kernel_init: Initialiser = NORMAL

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Attends over the tokens."""
        d = x.shape[-1]
        q, k, v = Qkv(d, self.heads, self.dtype, self.kernel_init, name="qkv")(x)
        mixed = attention(q, k, v, kernel=self.kernel).reshape(x.shape)
        return Dense(d, self.dtype, self.kernel_init, self.heads, name="proj")(mixed)


class Mlp(nn.Module):
    """Two linear maps with an activation between them."""

    hidden: int
    width: int
    dtype: Any = jnp.float32
    kernel_init: Initialiser = NORMAL
    activation: str = "gelu"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n {self.width}"]:
        """Applies the two maps."""
        hidden = Dense(self.hidden, self.dtype, self.kernel_init, name="fc1")(x)
        hidden = ACTIVATIONS[self.activation](keep(hidden))
        return Dense(self.width, self.dtype, self.kernel_init, name="fc2")(hidden)


def drop_path(
    branch: Float[Array, "b n d"], rate: Float[Array, ""] | float, key: Key[Array, ""]
) -> Float[Array, "b n d"]:
    """Zeroes the branch of whole samples with probability `rate`, and scales up the others."""
    kept = jax.random.bernoulli(key, 1 - rate, (branch.shape[0], 1, 1))
    return branch * (kept / (1 - rate)).astype(branch.dtype)


class Block(nn.Module):
    """Pre-norm transformer block.

    Attributes:
      heads: attention heads.
      mlp_ratio: width of the MLP relative to the tokens.
      stochastic: drop branches at random (training with drop path).
      kernel: attention kernel, see `ops.attention`.
      dtype: of the computation.
      kernel_init: of the linear maps.
      epsilon: of the layer norms.
      activation: of the MLP, key of `ACTIVATIONS`.
    """

    heads: int
    mlp_ratio: float = 4.0
    stochastic: bool = False
    kernel: str = "auto"
    dtype: Any = jnp.float32
    kernel_init: Initialiser = NORMAL
    epsilon: float = 1e-6
    activation: str = "gelu"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], rate: Float[Array, ""] | float
    ) -> tuple[Float[Array, "b n d"], None]:
        """Returns the new tokens, and None (`nn.scan` requires a pair)."""
        width = x.shape[-1]
        attend = Attention(self.heads, self.kernel, self.dtype, self.kernel_init, name="attn")
        hidden = int(width * self.mlp_ratio)
        mlp = Mlp(hidden, width, self.dtype, self.kernel_init, self.activation, name="mlp")
        x = keep(x + self._drop(attend(LayerNorm(self.epsilon, name="norm1")(x)), rate))
        x = x + self._drop(mlp(LayerNorm(self.epsilon, name="norm2")(x)), rate)
        return x, None

    def _drop(self, branch: Array, rate: Array | float) -> Array:
        return drop_path(branch, rate, self.make_rng("dropout")) if self.stochastic else branch


class Blocks(nn.Module):
    """A stack of blocks; the rate of drop path grows linearly from 0 to `drop_path`.

    The parameters of block i have the key `i`. With `scan`, those of consecutive equal blocks i to
    j are stacked along a leading axis, with the key `i-j`.

    Attributes:
      block: class of the blocks, called with tokens and the rate of drop path.
      fields: of each block, except `stochastic`.
      drop_path: rate of the last block.
      scan: trace equal blocks once, so that compile time does not grow with their number.
      remat: store only the inputs of blocks for the backward pass, not what `keep` names in them.
    """

    block: type[nn.Module]
    fields: tuple[Mapping[str, Any], ...]
    drop_path: float = 0.0
    scan: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n2 d2"]:
        """Runs the blocks; training with drop path needs the rng `dropout`."""
        rates = np.linspace(0, self.drop_path, len(self.fields), dtype=np.float32)
        stochastic = train and self.drop_path > 0
        policy, on_cpu = None if self.remat else kept, device_of_trace().platform == "cpu"
        for first, last in self._runs():
            fields = {**self.fields[first], "stochastic": stochastic}
            block, alone = self.block, first == last
            if self.remat or not on_cpu:  # which stores numbers faster than it computes them again
                # A loop separates the passes by itself.
                block = nn.remat(block, prevent_cse=alone, policy=policy)
            if alone:
                x, _ = block(**fields, name=str(first))(x, rates[first].item())
                continue
            scanned = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                length=last - first + 1,
            )
            x, _ = scanned(**fields, name=f"{first}-{last}")(
                x, jnp.asarray(rates[first : last + 1])
            )
        return x

    def _runs(self) -> list[tuple[int, int]]:
        """First and last block of each run of blocks that are scanned together."""
        if not self.scan:
            return [(i, i) for i in range(len(self.fields))]

        def kind(i: int) -> tuple[Mapping[str, Any], Any]:  # the input may be narrower
            return self.fields[i], self.fields[max(i - 1, 0)].get("width")

        groups = itertools.groupby(range(len(self.fields)), key=kind)
        runs = [list(members) for _, members in groups]
        return [(run[0], run[-1]) for run in runs]


def is_scanned(scan: bool | None, depth: int) -> bool:
    """Whether an encoder of `depth` blocks scans equal ones, as its field `scan` says.

    If that is None, all do but those of up to `UNROLLED` blocks on a CPU, where a scan copies the
    weights and what the backward pass needs.
    """
    return (depth > UNROLLED or device_of_trace().platform != "cpu") if scan is None else scan


def check_fields(drop_path: float, attention: str, dtype: str) -> None:
    """Raises ValueError for a rate of drop path, attention kernel or dtype that is not supported.

    float16 is not: without loss scaling gradients underflow, and activations may overflow.
    """
    check_choice("attention", attention, KERNELS)
    wide = ["float64"] if jax.dtypes.canonicalize_dtype(float) == np.float64 else []
    if dtype not in ("float32", "bfloat16", *wide):
        raise ValueError(
            f"dtype={dtype!r}: expected 'float32' or 'bfloat16'; float16 needs loss scaling, which "
            "bfloat16 does not, and float64 needs jax_enable_x64"
        )
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path={drop_path} is not in [0, 1)")


def check_epsilon(epsilon: float | None) -> None:
    """Raises ValueError for an epsilon of a layer norm that is not between 0 and 1."""
    if epsilon is not None and not 0 < epsilon < 1:
        raise ValueError(f"epsilon={epsilon} is not between 0 and 1")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError for a value that is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(choices)}")


def check_sizes(width: int, depth: int, heads: int, mlp_ratio: float = 1.0) -> None:
    """Raises ValueError if a size is too small, or heads do not divide the width."""
    for name, size, least in (("width", width, 1), ("depth", depth, 0), ("heads", heads, 1)):
        if size < least:
            raise ValueError(f"{name}={size} must be {least} or more")
    if width * mlp_ratio < 1:
        raise ValueError(f"mlp_ratio={mlp_ratio} leaves an MLP of width {width} no channels")
    if width % heads:
        raise ValueError(f"width {width} is not a whole number of {heads} heads")


def stacked_range(name: str) -> tuple[int, int] | None:
    """First and last block of a key of stacked parameters, `i-j`; None for other keys."""
    match = re.fullmatch(r"(\d+)-(\d+)", name)
    return (int(match[1]), int(match[2])) if match else None


def is_stacked(params: Params) -> bool:
    """Whether the parameters of equal blocks are stacked, as with `scan`."""
    return isinstance(params, dict) and any(
        stacked_range(name) or is_stacked(value) for name, value in params.items()
    )


def unstack_blocks(params: Params) -> Params:
    """Parameters with one subtree per block, as without `scan`."""
    if not isinstance(params, dict):
        return params
    unstacked: dict[str, Params] = {}
    for name, value in params.items():
        if blocks := stacked_range(name):
            for i in range(blocks[0], blocks[1] + 1):
                unstacked[str(i)] = jax.tree.map(lambda x, i=i: x[i - blocks[0]], value)
        else:
            unstacked[name] = unstack_blocks(value)
    return unstacked


def stack_blocks(params: Params, like: Params) -> Params:
    """The inverse of `unstack_blocks`: blocks stacked as they are in `like`."""
    if not isinstance(like, dict):
        return params
    stacked = {}
    for name, value in like.items():
        if blocks := stacked_range(name):
            layers = [params[str(i)] for i in range(blocks[0], blocks[1] + 1)]
            stacked[name] = jax.tree.map(lambda *x: np.stack(x), *layers)
        else:
            stacked[name] = stack_blocks(params[name], value)
    return stacked
