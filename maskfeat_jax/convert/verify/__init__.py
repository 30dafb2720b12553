"""Verifies a conversion by running the original code and ours on the same input.

To cover another layout, write a module like the others and add it to `ORIGINALS`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from maskfeat_jax.checkpoints.pretrained import Params, Pretrained
from maskfeat_jax.convert import files
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.importing import about
from maskfeat_jax.convert.source import find_source
from maskfeat_jax.convert.verify.base import Case, Original, prefix_of
from maskfeat_jax.convert.verify.clip import CLIP
from maskfeat_jax.convert.verify.detectors import MMSEG, VITDET
from maskfeat_jax.convert.verify.hf import HF
from maskfeat_jax.convert.verify.mae import MAE
from maskfeat_jax.convert.verify.mae_st import MAE_ST
from maskfeat_jax.convert.verify.mmpretrain import MMPRETRAIN
from maskfeat_jax.convert.verify.pyslowfast import PYSLOWFAST
from maskfeat_jax.convert.verify.timm import TIMM
from maskfeat_jax.convert.verify.torchvision import TORCHVISION
from maskfeat_jax.convert.verify.videomae import VIDEOMAE
from maskfeat_jax.models import MAE as MaskedAutoencoder
from maskfeat_jax.models import BoxClassifier, Features, MaskFeat
from maskfeat_jax.models.layers import LayerNorm, unstack_blocks

__all__ = ["ORIGINALS", "Verification", "verify"]

ORIGINALS: dict[str, Original] = {
    "timm": TIMM,
    "mae": MAE,
    "mae_st": MAE_ST,
    "videomae": VIDEOMAE,
    "pyslowfast": PYSLOWFAST,
    "mmpretrain": MMPRETRAIN,
    "hf": HF,
    "clip": CLIP,
    "torchvision": TORCHVISION,
    "vitdet": VITDET,
    "mmseg": MMSEG,
}
TOLERANCE = 1e-4  # relative to the largest number: float32, dozens of blocks
CLIPS = 2
BOXES = 3  # of each clip
SEED = 0


@dataclasses.dataclass(frozen=True)
class Verification:
    """The difference between the outputs of our model and of the original."""

    layout: str
    compared: str  # which outputs, for which input
    difference: float  # largest absolute one
    largest: float  # absolute value in the outputs of the original

    @property
    def agrees(self) -> bool:
        """Whether they differ by no more than rounding can explain; not if a number is NaN."""
        return self.difference <= TOLERANCE * self.largest

    def __str__(self) -> str:
        numbers = f"{self.difference:.1e}, largest number {self.largest:.1e}"
        return f"{self.compared}: largest difference {numbers}"


def verify(
    trained: Pretrained, path: str | os.PathLike[str], layout: str | None = None
) -> Verification:
    """Runs our model and the original, which loads its file strictly, in float32.

    Compares predictions of the masked tokens, logits, or an encoder's tokens after the norm, for
    random clips and masks.

    Raises:
      ConvertError: the original is not installed, does not support the model, or does not load
        the file without missing or unexpected tensors.
    """
    contents = files.read(path)
    prefix = prefix_of(trained)
    names = [n.removeprefix(prefix) for n in contents.tensors if n.startswith(prefix)]
    if layout is None:
        known = about(contents)
        layout = known["layout"] if known else find_source(contents.tensors, None).layout.name
    original = ORIGINALS[layout]
    torch = files.require_torch("to run an original")
    case = _case(trained)
    with torch.random.fork_rng(devices=()), torch.no_grad():
        model = original.read(trained, contents.path, frozenset(names))
        try:
            model.float().eval()  # that of mmsegmentation returns None
            theirs = original.run(model, case).numpy()
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ConvertError(f"{original.name} does not run this model: {error}") from error
    ours = (original.ours or run)(trained, case)
    if ours.shape != theirs.shape:
        raise ConvertError(f"the original's output has shape {theirs.shape}, ours {ours.shape}")
    size = "x".join(map(str, trained.clip))
    what = "tokens of the last block" if original.ours else _what(trained.model)
    return Verification(
        layout=layout,
        compared=f"{what} of {CLIPS} clips of {size}, {original.name}",
        difference=float(np.abs(ours - theirs).max()),
        largest=float(np.abs(theirs).max()),
    )


def run(trained: Pretrained, case: Case) -> np.ndarray:
    """Our outputs, computed on the CPU."""
    encoder = trained.model.encoder.clone(dtype="float32", attention="xla", scan=False)
    model, inputs = trained.model.clone(encoder=encoder), [case.clips]
    masked = isinstance(model, MaskFeat | MaskedAutoencoder)
    if masked:
        inputs.append(case.mask)
    if isinstance(model, BoxClassifier):
        inputs.append(case.boxes)
    on_cpu = jax.default_device(jax.local_devices(backend="cpu")[0])
    with on_cpu, jax.default_matmul_precision("highest"):
        params = jax.tree.map(jnp.asarray, unstack_blocks(trained.params))
        function = _tokens if isinstance(model, Features) else _outputs
        numbers = np.asarray(function(model, params, *map(jnp.asarray, inputs)))
    return numbers[case.mask] if masked else numbers


@functools.partial(jax.jit, static_argnums=0)
def _outputs(model: nn.Module, params: Params, *inputs: jax.Array) -> Any:
    return model.apply({"params": params}, *inputs)


@functools.partial(jax.jit, static_argnums=0)
def _tokens(model: nn.Module, params: Params, clips: jax.Array) -> Any:
    tokens = model.encoder.apply({"params": params["encoder"]}, clips)
    return LayerNorm(model.encoder.epsilon).apply({"params": params["norm"]}, tokens)


def _case(trained: Pretrained) -> Case:
    torch = files.require_torch("to run an original")
    rng = np.random.default_rng(SEED)
    clips = rng.standard_normal((CLIPS, *trained.clip, 3), np.float32)
    corners = np.sort(rng.uniform(0, trained.clip[1:], (CLIPS, BOXES, 2, 2)), axis=2)
    boxes = corners[..., ::-1].reshape(CLIPS, BOXES, 4).astype(np.float32)
    grid = trained.model.encoder.grid(trained.clip)
    tokens = int(np.prod(grid))
    visible = getattr(trained.model, "visible", tokens - max(1, round(0.4 * tokens)))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(SEED)
        noise = torch.rand(CLIPS, tokens)
    # Sorted as the originals do, which settles ties.
    rank = torch.argsort(torch.argsort(noise, dim=1), dim=1)
    mask = (rank >= visible).numpy().reshape(-1, *grid)
    return Case(trained, clips, noise.numpy(), mask, boxes, SEED)


def _what(model: nn.Module) -> str:
    if isinstance(model, MaskFeat | MaskedAutoencoder):
        return "predictions of the masked tokens"
    return "tokens after the norm" if isinstance(model, Features) else "logits"
