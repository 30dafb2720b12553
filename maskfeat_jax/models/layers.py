"""Parts shared by the models. Submodule names are the checkpoint format."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from maskfeat_jax.arrays import Array
from maskfeat_jax.ops.attention import KERNELS, attention
from maskfeat_jax.ops.linear import affine, gelu, layer_norm

NORMAL = nn.initializers.normal(0.02)  # the originals truncate at 100 standard deviations
Params = Any  # nested dict of arrays


class Dense(nn.Module):
    """Linear map of the last axis, computed in `dtype`, parameters in float32."""

    features: int
    dtype: Any = jnp.float32
    kernel_std: float = 0.02

    @nn.compact
    def __call__(self, x: Float[Array, "*lead inner"]) -> Float[Array, "*lead outer"]:
        """Applies the map."""
        init = nn.initializers.normal(self.kernel_std)
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return affine(x.astype(self.dtype), kernel, bias)


class LayerNorm(nn.Module):
    """Layer norm over the last axis, epsilon 1e-6, in float32 inside."""

    @nn.compact
    def __call__(self, x: Float[Array, "*lead d"]) -> Float[Array, "*lead d"]:
        """Applies the norm."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return layer_norm(x, scale, bias)


class Attention(nn.Module):
    """Multi-head self-attention."""

    heads: int
    kernel: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Attends over the tokens."""
        b, n, d = x.shape
        qkv = jnp.split(Dense(3 * d, self.dtype, name="qkv")(x), 3, axis=-1)
        q, k, v = (part.reshape(b, n, self.heads, d // self.heads) for part in qkv)
        mixed = attention(q, k, v, kernel=self.kernel).reshape(b, n, d)
        return Dense(d, self.dtype, name="proj")(mixed)


class Mlp(nn.Module):
    """Two linear maps with a GELU between them."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Applies the two maps."""
        hidden = gelu(Dense(self.hidden, self.dtype, name="fc1")(x))
        return Dense(x.shape[-1], self.dtype, name="fc2")(hidden)


class Block(nn.Module):
    """Pre-norm transformer block.

    Attributes:
      heads: attention heads.
      mlp_ratio: width of the MLP relative to the tokens.
      stochastic: drop branches at random (training with drop path).
      kernel: attention kernel, see `ops.attention`.
      dtype: of the computation.
    """

    heads: int
    mlp_ratio: float = 4.0
    stochastic: bool = False
    kernel: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], drop_path: Float[Array, ""] | float
    ) -> tuple[Float[Array, "b n d"], None]:
        """Returns the new tokens (and None: the form that `nn.scan` wants)."""
        attend = Attention(self.heads, self.kernel, self.dtype, name="attn")
        mlp = Mlp(int(x.shape[-1] * self.mlp_ratio), self.dtype, name="mlp")
        x = x + self._drop(attend(LayerNorm(name="norm1")(x)), drop_path)
        x = x + self._drop(mlp(LayerNorm(name="norm2")(x)), drop_path)
        return x, None

    def _drop(self, branch: Array, rate: Array | float) -> Array:
        """Drop path: zeroes the branch of whole samples, scales the others up."""
        if not self.stochastic:
            return branch
        shape = (branch.shape[0], 1, 1)
        kept = jax.random.bernoulli(self.make_rng("drop_path"), 1 - rate, shape)
        return branch * (kept / (1 - rate)).astype(branch.dtype)


class Blocks(nn.Module):
    """A stack of equal blocks; the rate of drop path grows linearly from 0 to `drop_path`.

    Attributes:
      depth: number of blocks.
      heads, mlp_ratio, kernel, dtype: see `Block`.
      drop_path: rate of the last block.
      scan: one traced block and parameters stacked along a leading axis under `all` (compiles in
        constant time), instead of one subtree per block under `0`, `1`, …
      remat: recompute activations in the backward pass instead of storing them.
    """

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    scan: bool = False
    remat: bool = False
    kernel: str = "xla"
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"attention={self.kernel!r} is not one of {', '.join(KERNELS)}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path} is not in [0, 1)")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
        """Runs the blocks; training with drop path needs the rng `drop_path`."""
        rates = np.linspace(0, self.drop_path, self.depth, dtype=np.float32)
        fields = {
            "heads": self.heads,
            "mlp_ratio": self.mlp_ratio,
            "stochastic": train and self.drop_path > 0,
            "kernel": self.kernel,
            "dtype": self.dtype,
        }
        block = nn.remat(Block, prevent_cse=not self.scan) if self.remat else Block
        if self.scan:
            scanned = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "drop_path": True},
                length=self.depth,
            )
            return scanned(**fields, name="all")(x, jnp.asarray(rates))[0]
        for i, rate in enumerate(rates.tolist()):
            x, _ = block(**fields, name=str(i))(x, rate)
        return x


def unstack_blocks(params: Params) -> Params:
    """Parameters with one subtree per block, whatever the `scan` they were made with."""
    if not isinstance(params, dict):
        return params
    if set(params) != {"all"}:
        return {name: unstack_blocks(value) for name, value in params.items()}
    depth = jax.tree.leaves(params["all"])[0].shape[0]
    return {str(i): jax.tree.map(lambda x, i=i: x[i], params["all"]) for i in range(depth)}


def stack_blocks(params: Params) -> Params:
    """The inverse of `unstack_blocks`: parameters for `scan=True`."""
    if not isinstance(params, dict):
        return params
    if not params or not all(name.isdigit() for name in params):
        return {name: stack_blocks(value) for name, value in params.items()}
    layers = [params[str(i)] for i in range(len(params))]
    return {"all": jax.tree.map(lambda *x: np.stack(x), *layers)}
