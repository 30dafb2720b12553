"""What is known of the model of a file besides its tensors: given, or told by what lies beside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maskfeat_jax.augment import Normalise
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.models.classifier import POOLS
from maskfeat_jax.sections import nearest

Hints = Mapping[str, Any]


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _clip(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_positive, value))


def _part(value: Any) -> bool:
    return isinstance(value, float | int) and bool(0 <= value < 1)


def _colours(value: Any) -> bool:
    if not isinstance(value, Normalise):
        return False
    numbers = [value.mean, value.std]
    if not all(isinstance(n, tuple) and len(n) == 3 for n in numbers):
        return False
    known = all(isinstance(x, float | int) and np.isfinite(x) for n in numbers for x in n)
    return known and all(0 <= x <= 1 for x in value.mean) and all(0 < x <= 1 for x in value.std)


@dataclasses.dataclass(frozen=True)
class Hint:
    """One thing that may be known."""

    what: str  # for people
    valid: Callable[[Any], bool]
    given: bool = True  # as an argument, too, not only by what lies beside


HINTS: dict[str, Hint] = {
    "heads": Hint("attention heads of the encoder, of the first stage of an MViT", _positive),
    "decoder_heads": Hint("attention heads of the decoder", _positive),
    "pool": Hint(f"what a classifier reads: {' or '.join(POOLS)}", lambda value: value in POOLS),
    "clip": Hint("frames, height and width that the positions of the file are for", _clip),
    "kv_stride": Hint("of an MViT, in its first stage", _positive),
    "mask_ratio": Hint("part of the tokens that a masked autoencoder hides", _part),
    "normalise": Hint("mean and standard deviation of the pixels, from 0 to 1", _colours),
    "epsilon": Hint("of the layer norms", lambda value: isinstance(value, float | int), False),
    "view": Hint("how a picture is cut: `eval_view`", lambda value: isinstance(value, dict), False),
    "class_names": Hint("of the classes", lambda value: isinstance(value, tuple), False),
}


def check_given(hints: Hints) -> dict[str, Any]:
    """Those that are not None; TypeError if there is no such hint, ConvertError if it cannot be."""
    free = [name for name, hint in HINTS.items() if hint.given]
    for name in hints:
        if name not in free:
            raise TypeError(f"{name}: no such argument{nearest(name, free)}")
    return _checked({name: value for name, value in hints.items() if value is not None}, "given")


def told(read: Callable[[], dict[str, Any]], where: str) -> dict[str, Any]:
    """What a layout reads beside tensors; ConvertError, naming the file, if it cannot be."""
    try:
        found = read()
    except ConvertError as error:
        raise ConvertError(f"{where}: {error}") from error
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ConvertError(
            f"{where}: what lies beside the tensors cannot be understood ({error!r})"
        ) from error
    return _checked(found, where)


def _checked(hints: dict[str, Any], where: str) -> dict[str, Any]:
    for name, value in hints.items():
        if not HINTS[name].valid(value):
            raise ConvertError(f"{where}: {name} {value!r} cannot be: {HINTS[name].what}")
    return hints
