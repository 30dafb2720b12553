"""Targets: what is predicted for each tubelet of the normalised, augmented, unmasked clip.

To add one: a frozen dataclass derived from `Target` in a file of this folder, and its line in
`TARGETS`.
"""

from __future__ import annotations

from maskfeat_jax.targets.base import Inputs, LabelMaps, Target
from maskfeat_jax.targets.dvae import Dvae
from maskfeat_jax.targets.features import Features
from maskfeat_jax.targets.hog import Hog
from maskfeat_jax.targets.pixels import Pixels
from maskfeat_jax.targets.pseudo_label import PseudoLabel
from maskfeat_jax.targets.sum import Sum

__all__ = [
    "TARGETS",
    "Dvae",
    "Features",
    "Hog",
    "Inputs",
    "LabelMaps",
    "Pixels",
    "PseudoLabel",
    "Sum",
    "Target",
]

TARGETS: dict[str, type[Target]] = {
    "dvae": Dvae,
    "features": Features,
    "hog": Hog,
    "pixels": Pixels,
    "pseudo_label": PseudoLabel,
    "sum": Sum,
}
