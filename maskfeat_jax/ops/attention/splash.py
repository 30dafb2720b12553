"""Attention by JAX's fused kernel for TPUs, "splash attention"."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from maskfeat_jax.ops.residuals import NAME
from maskfeat_jax.typing import Array

LANES = 128  # of a TPU's vector registers; blocks are multiples
# What fits into the 16 MiB that a TPU v4 or v5e gives a kernel, with heads of up to 256 channels.
CHANNELS = 256
KEYS = 2**12  # bytes of a channel of the largest block of keys
LOGITS = 2**20  # bytes of the largest block of queries and keys, in the dtype of the arrays


def attend(
    q: Float[Array, "b queries heads d"],
    k: Float[Array, "b keys heads d"],
    v: Float[Array, "b keys heads e"],
    *,
    interpret: bool = False,
) -> Float[Array, "b queries heads e"]:
    """Attention of scaled queries.

    Args:
      q: queries.
      k: keys.
      v: values.
      interpret: run on a CPU, slowly.
    """
    # Late, as Pallas takes long to import and only TPUs need it.
    from jax.experimental.pallas.ops.tpu import splash_attention

    queries, keys, heads = q.shape[1], k.shape[1], q.shape[2]
    of_keys = block(keys, KEYS // q.dtype.itemsize)
    of_queries = block(queries, LOGITS // q.dtype.itemsize // of_keys)
    q, k, v = _padded(q, of_queries), _padded(k, of_keys), _padded(v, of_keys)
    # Tokens before channels: a TPU would pad heads of fewer than 128 channels to that.
    layout = splash_attention.QKVLayout.SEQ_MINOR
    kernel = splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask(
            [splash_attention.FullMask((q.shape[2], k.shape[2]))] * heads
        ),
        block_sizes=splash_attention.BlockSizes(
            block_q=of_queries,
            block_kv=of_keys,
            block_q_dkv=of_queries,
            block_kv_dkv=of_keys,
            block_kv_dkv_compute=of_keys,
            use_fused_bwd_kernel=True,
            q_layout=layout,
            k_layout=layout,
            v_layout=layout,
        ),
        residual_checkpoint_name=NAME,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    segments = splash_attention.SegmentIds(  # real queries attend to real keys
        *((jnp.arange(x.shape[2]) < n).astype(jnp.int32) for x, n in ((q, queries), (k, keys)))
    )
    mixed = jax.vmap(lambda q, k, v: kernel(q, k, v, segment_ids=segments))(q, k, v)
    return jnp.moveaxis(mixed[:, :, :queries], 1, 2)


def refusal(device: Any, q: Array, v: Array) -> str | None:
    """Why the kernel cannot run on a device, with the dtype and head size of the arrays."""
    if reason := needs_tpu(device, q):
        return reason
    size = max(q.shape[-1], v.shape[-1])
    if size > CHANNELS:
        return f"has heads of at most {CHANNELS} channels, not {size}"
    return None


def needs_tpu(device: Any, q: Array) -> str | None:
    """Why no kernel for TPUs can run on a device, with the dtype of the array."""
    if device.platform != "tpu":
        return f"needs a TPU, not {device.device_kind}"
    if q.dtype.itemsize > 4:
        return f"needs dtype 'float32' or 'bfloat16', not {q.dtype.name!r}"
    return None


def block(tokens: int, most: int) -> int:
    """Length of the blocks that tokens are padded to and split into.

    Each block costs about as much as 64 more tokens.
    """
    sizes = range(LANES, max(most, LANES) + 1, LANES)
    return min(sizes, key=lambda size: -(-tokens // size) * (size + 64))


def _padded(x: Float[Array, "b n heads d"], block: int) -> Float[Array, "b heads n2 d"]:
    return jnp.pad(jnp.moveaxis(x, 2, 1), ((0, 0), (0, 0), (0, -x.shape[1] % block), (0, 0)))
