"""A trained model as one file that any JAX can run, without this project.

    write(maskfeat_jax.convert.load("runs/a"), "a.stablehlo")
    logits = load("a.stablehlo")(video)         # or, with nothing but JAX:
    logits = jax.export.deserialize(open("a.stablehlo", "rb").read()).call(video)

The function takes uint8 RGB clips `(b, t, h, w, 3)` with any batch size b and the clip size of the
model; it includes the normalisation of pixels and the parameters. It returns the output of the
model: logits, features, or predictions of pre-training, for which the mask is a second argument. A
classifier of boxes takes boxes `(b, n, 4)` in pixels, any number n, as a second argument. It
runs on all `PLATFORMS`, wherever it was exported: code that depends on the platform (see
`lax.platform_dependent`) is selected when it runs. Versions of JAX up to six months newer read such
files, see its documentation of `jax.export`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import jax
import numpy as np

from maskfeat_jax import steps
from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.files import local_path, write_atomically
from maskfeat_jax.models import MAE, BoxClassifier, MaskFeat
from maskfeat_jax.typing import Array

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
LARGEST = 2**31 - 2**25  # bytes of parameters; the format holds 2 GiB, and the program needs some


def export(trained: Pretrained) -> bytes:
    """Serialises the inference function of a model; ValueError if its parameters are too large."""
    size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(trained.params))
    if size > LARGEST:
        raise ValueError(
            f"{trained.origin}: {size / 2**30:.1f} GiB of parameters; a StableHLO file of JAX "
            "holds less than 2 GiB"
        )
    model, clip = trained.model, trained.clip
    model = model.clone(encoder=model.encoder.clone(attention="chunked"))  # runs everywhere
    batch, boxes = jax.export.symbolic_shape("b, n")
    inputs = [jax.ShapeDtypeStruct((batch, *clip, 3), np.uint8)]
    if isinstance(model, MAE | MaskFeat):
        inputs.append(jax.ShapeDtypeStruct((batch, *model.encoder.grid(clip)), bool))
    if isinstance(model, BoxClassifier):
        inputs.append(jax.ShapeDtypeStruct((batch, boxes, 4), np.float32))

    def one(video: Array, *more: Array) -> Array:
        rows = (trained.normalise(video[None]), *(row[None] for row in more))
        return steps.forward(model, trained.params, *rows)[0]

    # Mapped over clips: models may use the batch size, which is symbolic here.
    exported = jax.export.export(jax.jit(jax.vmap(one)), platforms=PLATFORMS)(*inputs)
    return bytes(exported.serialize())


def write(trained: Pretrained, path: str | os.PathLike[str]) -> None:
    """Writes the result of `export` atomically; raises its ValueError, or OSError."""
    write_atomically(local_path(path), export(trained))


def load(path: str | os.PathLike[str]) -> Callable[..., Array]:
    """The compiled function of a file of `write`; ValueError if it is none, or truncated."""
    data = bytearray(local_path(path).read_bytes())
    try:
        exported = jax.export.deserialize(data)
    except Exception as error:  # its parser raises many kinds on foreign bytes
        raise ValueError(f"{path} is not a StableHLO file of JAX, or truncated: {error}") from error
    return jax.jit(exported.call)
