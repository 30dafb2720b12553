"""Code that the originals of all layouts share."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.files import ConvertError, require_torch

Module = Any  # torch.nn.Module
Tensor = Any  # torch.Tensor


@dataclasses.dataclass(frozen=True)
class Case:
    """The input of both models.

    Attributes:
      trained: our model.
      clips: normalised pixels.
      noise: one number per token; masked autoencoders keep the tokens with the smallest. It is the
        first output of `torch.rand` after `torch.manual_seed(seed)`.
      mask: of the tokens, True where masked.
      boxes: left, top, right, bottom in pixels.
      seed: of the noise.
    """

    trained: Pretrained
    clips: Float[np.ndarray, "b t h w 3"]
    noise: Float[np.ndarray, "b n"]
    mask: Bool[np.ndarray, "b gt gh gw"]
    boxes: Float[np.ndarray, "b boxes 4"]
    seed: int

    def torch_clips(self, *, channels: int = 1) -> Tensor:
        """The clips with channels at this axis; without a time axis for an encoder of images."""
        torch = require_torch("to run an original")
        clips = torch.from_numpy(np.moveaxis(self.clips, -1, channels).copy())
        images = self.trained.clip[0] == 1 and self.trained.model.encoder.tubelet[0] == 1
        return clips.squeeze(2 if channels == 1 else 1) if images else clips

    def torch_mask(self) -> Tensor:
        """The mask, `(b, n)`."""
        torch = require_torch("to run an original")
        return torch.from_numpy(self.mask.reshape(len(self.mask), -1).copy())

    def torch_boxes(self) -> Tensor:
        """The boxes of all clips, `(b * boxes, 5)`: the number of the clip comes first."""
        torch = require_torch("to run an original")
        rows, number, _ = self.boxes.shape
        clip = np.arange(rows).repeat(number)[:, None]
        return torch.from_numpy(np.hstack([clip, self.boxes.reshape(-1, 4)]).astype(np.float32))

    def draw_same_noise(self) -> None:
        """Makes the next `torch.rand` return `noise`."""
        require_torch("to run an original").manual_seed(self.seed)


def mask_ratio(trained: Pretrained) -> float:
    """A ratio with which the originals, which round down, keep as many tokens as ours."""
    return 1 - (trained.model.visible + 0.5) / math.prod(trained.model.encoder.grid(trained.clip))


@dataclasses.dataclass(frozen=True)
class Original:
    """The original code of a layout.

    `build` makes the original of our model, for a file with tensors of these names; `read` also
    loads such a file strictly; `run` returns the outputs to compare, see `verify`; `ours` computes
    ours, if that is not usual.
    """

    name: str
    build: Callable[[Pretrained, frozenset[str]], Module]
    read: Callable[[Pretrained, Path, frozenset[str]], Module]
    run: Callable[[Module, Case], Tensor]
    ours: Callable[[Pretrained, Case], np.ndarray] | None = None


def imported(name: str, hint: str) -> ModuleType:
    """A module of an original; ConvertError, with the hint, if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, AttributeError, AssertionError) as error:
        raise ConvertError(f"{name} cannot be imported ({error}); {hint}") from error


def norm_layer(epsilon: float) -> Callable[[int], Module]:
    """Layer norm with our epsilon, which the originals take as an argument."""
    return functools.partial(require_torch("to run an original").nn.LayerNorm, eps=epsilon)


def square(trained: Pretrained) -> int:
    """The side of the clips; ConvertError if they are not square, which many originals need."""
    _, height, width = trained.clip
    if height != width:
        raise ConvertError(f"the original takes square clips only, not {height}x{width} pixels")
    return height


def read_strictly(
    build: Callable[[Pretrained, frozenset[str]], Module], *wrappers: str
) -> Callable[[Pretrained, Path, frozenset[str]], Module]:
    """`Original.read` of a file of `torch.save`, whose tensors are under one of the keys."""

    def read(trained: Pretrained, path: Path, names: frozenset[str]) -> Module:
        state = tensors_of(path, *wrappers, prefix=prefix_of(trained))
        return load_strictly(build(trained, names), state, path)

    return read


def prefix_of(trained: Pretrained) -> str:
    """The prefix of the names in the file that our model was read from."""
    return trained.report.prefix if trained.report else ""


def tensors_of(path: Path, *wrappers: str, prefix: str) -> Mapping[str, Tensor]:
    """Tensors of a file of `torch.save`, bare or under one of the keys, by names with a prefix."""
    from argparse import Namespace

    torch = require_torch(f"to read {path.name}")
    if path.suffix == ".safetensors":
        raise ConvertError(f"{path}: the original reads what torch.save wrote, not safetensors")
    with torch.serialization.safe_globals([Namespace]):
        saved = torch.load(path, map_location="cpu", weights_only=True)
    found = [key for key in wrappers if key in saved]
    if wrappers and not found:
        raise ConvertError(f"{path}: the original expects the key {' or '.join(wrappers)}")
    tensors = saved[found[0]] if wrappers else saved
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def load_strictly(model: Module, state: Mapping[str, Tensor], path: Path) -> Module:
    """Loads a state dict; ConvertError for missing or unexpected tensors or wrong shapes."""
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ConvertError(f"{path} does not load in the original: {error}") from error
    return model


def without_argument(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A function that also accepts an argument that newer versions of it have dropped."""
    if name in inspect.signature(function).parameters:
        return function

    def call(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop(name, None)
        return function(*args, **kwargs)

    return call


def outputs_of(module: Module) -> list[Tensor]:
    """A list to which each output of a module is appended."""
    outputs: list[Tensor] = []
    module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    return outputs


def sizes(trained: Pretrained) -> dict[str, Any]:
    """Arguments that MAE and mae_st share."""
    encoder = trained.model.encoder
    return {
        "img_size": square(trained),
        "patch_size": encoder.tubelet[1],
        "embed_dim": encoder.width,
        "depth": encoder.depth,
        "num_heads": encoder.heads,
        "mlp_ratio": encoder.mlp_ratio,
        "norm_layer": norm_layer(encoder.epsilon),
    }


def sizes_of_decoder(trained: Pretrained) -> dict[str, Any]:
    """Arguments of the decoder that MAE and mae_st share."""
    model = trained.model
    return {
        "decoder_embed_dim": model.width,
        "decoder_depth": model.depth,
        "decoder_num_heads": model.heads,
    }
