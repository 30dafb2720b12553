"""Settings that cannot be inferred from tensors: given, or stored next to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maskfeat_jax.augment import Normalise
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.models.classifier import NORM_OF, POOLS
from maskfeat_jax.models.layers import ACTIVATIONS
from maskfeat_jax.sections import nearest

Hints = Mapping[str, Any]


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _clip(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_positive, value))


def _names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def _fraction(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value < 1


def _epsilon(value: Any) -> bool:
    return _fraction(value) and value > 0


def _colours(value: Any) -> bool:
    if not isinstance(value, Normalise):
        return False
    numbers = [value.mean, value.std]
    if not all(isinstance(n, tuple) and len(n) == 3 for n in numbers):
        return False
    known = all(isinstance(x, float | int) and np.isfinite(x) for n in numbers for x in n)
    return known and all(0 <= x <= 1 for x in value.mean) and all(0 < x <= 1 for x in value.std)


CLASSIFIERS = ("classifier", "boxes")  # heads whose tensors have the same names and shapes
# Settings of originals of which the models here have one value.
ONLY = {"residual_pooling": True, "fixed_sincos": False}


@dataclasses.dataclass(frozen=True)
class Hint:
    """A setting that may be given or stored."""

    what: str  # description for messages
    valid: Callable[[Any], bool]
    given: bool = True  # whether it is an argument, too, not only stored


HINTS: dict[str, Hint] = {
    "heads": Hint("attention heads of the encoder; of the first stage for an MViT", _positive),
    "decoder_heads": Hint("attention heads of the decoder", _positive),
    "head": Hint(" or ".join(CLASSIFIERS), lambda value: value in CLASSIFIERS),
    "bins": Hint("rows and columns of bins of a box", _positive),
    "pool": Hint(f"pooling of a classifier: {' or '.join(POOLS)}", lambda value: value in POOLS),
    "clip": Hint("frames, height and width, for which the file has positions", _clip),
    "tubelet": Hint("frames, rows and columns of one output token of an MViT", _clip),
    "kv_stride": Hint("stride of keys and values in the first stage of an MViT", _positive),
    "mask_ratio": Hint("fraction of masked tokens, from 0 to below 1", _fraction),
    "normalise": Hint("mean and standard deviation of the pixels, from 0 to 1", _colours),
    "epsilon": Hint("of the layer norms, between 0 and 1", _epsilon),
    "activation": Hint(" or ".join(ACTIVATIONS), lambda value: value in ACTIVATIONS),
    "residual_pooling": Hint(
        "True: an MViT adds pooled queries to the output, but for the class token",
        lambda value: value is True,
    ),
    "fixed_sincos": Hint(
        "False: PySlowFast adds fixed positions twice, the models here once",
        lambda value: value is False,
    ),
    "class_names": Hint("names of the classes", _names),
    "norm_of": Hint(" or ".join(NORM_OF), lambda value: value in NORM_OF, False),
    "cell": Hint("pixels by which the sides of boxes are divided", _positive, False),
    "view": Hint("resize and crop, as `eval_view`", lambda value: isinstance(value, dict), False),
}


def check_given(hints: Hints) -> dict[str, Any]:
    """Hints that are not None; TypeError if one is unknown, ConvertError if a value is invalid."""
    free = [name for name, hint in HINTS.items() if hint.given]
    for name in hints:
        if name not in free:
            raise TypeError(f"{name}: no such argument{nearest(name, free)}")
    return _checked({name: value for name, value in hints.items() if value is not None}, "given")


def stored(read: Callable[[], dict[str, Any]], where: str) -> dict[str, Any]:
    """Settings stored next to tensors; ConvertError, naming the file, if one is invalid."""
    try:
        found = read()
    except ConvertError as error:
        raise ConvertError(f"{where}: {error}") from error
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ConvertError(
            f"{where}: settings stored next to the tensors cannot be read ({error!r})"
        ) from error
    return _checked(found, where)


def _checked(hints: dict[str, Any], where: str) -> dict[str, Any]:
    for name, value in hints.items():
        if not HINTS[name].valid(value):
            raise ConvertError(f"{where}: invalid {name} {value!r}; expected {HINTS[name].what}")
    return hints
