"""Files of the encoder, and perhaps the decoder, of `targets.Dvae`."""

from __future__ import annotations

import jax

from maskfeat_jax.convert import dvae
from maskfeat_jax.sections import Section
from maskfeat_jax.targets import Dvae
from maskfeat_jax.typing import PyTree


def describe(section: Section) -> Section:
    """Keys of the section of a target: sizes of both networks.

    Raises:
      ValueError: a file cannot be read, or they are of different networks.
    """
    encoder, _ = dvae.read_encoder(section["file"])
    found = {name: getattr(encoder, name) for name in ("hidden", "blocks", "vocabulary")}
    if section.get("decoder"):
        decoder, _ = dvae.read_decoder(section["decoder"])
        if decoder.vocabulary != encoder.vocabulary:
            raise ValueError(
                f"has {encoder.vocabulary} ids, but decoder={section['decoder']!r} has "
                f"{decoder.vocabulary}; expected the decoder of the same network"
            )
        of_decoder = ("hidden", "blocks", "initial")
        found |= {f"decoder_{name}": getattr(decoder, name) for name in of_decoder}
    return found


def load(target: Dvae) -> PyTree:
    """Weights as numpy arrays, in the shapes of `Dvae.teacher`.

    Raises:
      ValueError: see `describe`.
    """
    weights = {"encoder": dvae.read_encoder(target.file)[1]}
    if target.decoder:
        weights["decoder"] = dvae.read_decoder(target.decoder)[1]
    return jax.tree.map(lambda leaf, array: array.astype(leaf.dtype), target.teacher, weights)
