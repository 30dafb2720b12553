"""Draws what a run makes of images or videos.

    python main.py visualize runs/a photo.jpg other.png --out=picture.png
    python main.py visualize runs/b clip.mp4 --out=picture.png

Pre-training: input, masked input, predicted and true features. Fine-tuning: predicted classes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from input_pipeline import EvalView
from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.video import VideoFile
from maskfeat_jax.api import load
from maskfeat_jax.checkpoints.checkpointer import CheckpointError
from maskfeat_jax.pictures import encode
from maskfeat_jax.sections import Reader
from maskfeat_jax.workdir.workdir import WorkdirError


def pictures(
    workdir: Path, files: Sequence[Path], *, seed: int | None = None
) -> dict[str, np.ndarray]:
    """Pictures of what the newest good checkpoint of a run makes of some files.

    Args:
      workdir: of the run.
      files: images or videos; the middle of each is taken, as the run's evaluation does. An image
        in a run on videos stands still.
      seed: of the masks; None for that of the run.

    Returns:
      See `api.Model.draw`.

    Raises:
      CheckpointError, WorkdirError: the run cannot be read.
      ValueError: it is no run, or a file cannot be read.
    """
    model = load(workdir)
    reader = Reader({"task": "", **model.pretrained.recipe})
    view = dataclasses.replace(reader.call("eval_view", EvalView), clips=1, crops=1)
    return model.draw(np.concatenate([middle(path, view) for path in files]), seed=seed)


def middle(path: Path, view: EvalView) -> np.ndarray:
    """The clip of an image or a video that is evaluated: uint8 `(1, t, h, w, 3)`."""
    try:
        data = path.read_bytes() if is_image(path) else VideoFile(str(path))
        return view(data, np.random.default_rng(0))
    except (OSError, BadMedia) as error:
        raise ValueError(f"{path} cannot be read as an image or a video: {error}") from error


def is_image(path: Path) -> bool:
    """Whether the file says that it is an image."""
    try:
        Image.open(path).close()
    except UnidentifiedImageError:
        return False
    return True


def command(arguments: Sequence[str]) -> None:
    """`python main.py visualize …`."""
    parser = argparse.ArgumentParser("maskfeat visualize", description=__doc__.split("\n")[0])
    parser.add_argument("workdir", type=Path, help="work directory of a run")
    parser.add_argument("files", type=Path, nargs="+", help="images or videos")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("picture.png"),
        help="PNG to write; what moves goes to a GIF beside it",
    )
    parser.add_argument("--seed", type=int, help="another seed gives other masks")
    words = parser.parse_args(arguments)
    try:
        drawn = pictures(words.workdir, words.files, seed=words.seed)
    except (ValueError, CheckpointError, WorkdirError) as error:
        sys.exit(f"error: {error}")
    for picture in drawn.values():
        extension, encoded = encode(picture)
        path = words.out.with_suffix(extension)
        path.write_bytes(encoded)
        print(path)
