"""How much of a target the eight patches around it say, linearly, on CIFAR-10.

Ridge regression from pixels and targets of these patches to the target of the patch between them,
near the centre; prints the explained fraction of the variance on images that were not fitted. See
docs/experiments.md.

python docs/predictable.py cifar10
"""

from __future__ import annotations

import sys

import jax
import numpy as np

from input_pipeline import DATASETS, EvalView
from input_pipeline.loader import permutation
from maskfeat_jax.augment import Normalise
from maskfeat_jax.ops.patches import patchify
from maskfeat_jax.targets import Hog, Inputs, Pixels, Target

IMAGES, FITTED = 16_000, 12_000
STRENGTHS = (30.0, 300.0, 3000.0)  # of the regularisation; the best one counts
VIEW = EvalView(size=32, resize=32)


def clips(path: str) -> np.ndarray:
    """Random training images, normalised: float32 (IMAGES, 1, 32, 32, 3)."""
    source = DATASETS["image_folder"]("train", path=path)
    unused = np.random.default_rng(0)
    chosen = permutation(0, 0, source.num_examples)[:IMAGES]
    return np.asarray(
        Normalise((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))(
            np.concatenate([VIEW(source.read(index).data, unused) for index in chosen])
        )
    )


def explained(target: Target, images: np.ndarray) -> float:
    """Explained fraction of the variance of the target of a patch."""
    targets = np.asarray(jax.jit(lambda x: target(Inputs(x)))(images))[:, 0]
    pixels = np.asarray(patchify(images, target.tubelet))[:, 0]
    middle = targets.shape[1] // 2 - 1
    near = [(middle + y, middle + x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
    known = np.concatenate(
        [x[:, row, column] for x in (targets, pixels) for row, column in near], 1
    )
    known = (known - known[:FITTED].mean(0)) / (known[:FITTED].std(0) + 1e-6)
    wanted = targets[:, middle, middle] - targets[:FITTED, middle, middle].mean(0)
    square, product = known[:FITTED].T @ known[:FITTED], known[:FITTED].T @ wanted[:FITTED]
    errors = []
    for strength in STRENGTHS:
        weights = np.linalg.solve(square + strength * np.eye(len(square)), product)
        errors.append(np.square(known[FITTED:] @ weights - wanted[FITTED:]).mean())
    return float(1 - min(errors) / np.square(wanted[FITTED:]).mean())


def main(path: str) -> None:
    """Prints a line for each target and patch size."""
    images = clips(path)
    for patch in (8, 4):
        tubelet = (1, patch, patch)
        targets: dict[str, Target] = {"normalised pixels": Pixels(tubelet)}
        for cell in (patch, patch // 2):
            targets[f"HOG, cells of {cell}"] = Hog(tubelet, cell=cell)
            targets[f"HOG, cells of {cell}, not normalised"] = Hog(
                tubelet, cell=cell, normalise="none"
            )
        for name, target in targets.items():
            print(
                f"patches of {patch}, {name}: {100 * explained(target, images):.0f} %", flush=True
            )


if __name__ == "__main__":
    main(sys.argv[1])
