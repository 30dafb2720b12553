"""Draws predictions of a run for images or videos.

    python main.py visualize runs/a photo.jpg other.png --out=picture.png
    python main.py visualize runs/b clip.mp4 --out=picture.png

Pre-training: input, masked input, predicted features, targets. Fine-tuning: predicted classes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from input_pipeline import EvalView
from input_pipeline.bad_inputs import BadMedia, media_boundary
from input_pipeline.datasets.media import open_media
from input_pipeline.texts import printable
from maskfeat_jax.api import load
from maskfeat_jax.checkpoints.checkpointer import CheckpointError
from maskfeat_jax.files import local_path
from maskfeat_jax.models import BoxClassifier
from maskfeat_jax.pictures import encode
from maskfeat_jax.sections import Reader
from maskfeat_jax.workdir.workdir import WorkdirError


def pictures(
    workdir: Path, files: Sequence[Path], *, seed: int | None = None
) -> dict[str, np.ndarray]:
    """Pictures of the predictions of the newest good checkpoint of a run for files.

    Args:
      workdir: work directory of the run.
      files: images or videos; the centre crop of the middle clip is used, as in the evaluation of
        the run. For a run on videos, an image is repeated as a still clip.
      seed: of the masks; None for that of the run.

    Returns:
      See `api.Model.draw`.

    Raises:
      CheckpointError, WorkdirError: the run cannot be read.
      ValueError: `workdir` is not a run, or its model takes boxes; or a file cannot be read.
    """
    model = load(workdir)
    if isinstance(model.pretrained.model, BoxClassifier):
        raise ValueError(
            f"{workdir} classifies boxes, which files do not have; draw it in Python: "
            f"maskfeat_jax.load({str(workdir)!r}).draw(video, boxes)"
        )
    reader = Reader({"task": "", **model.pretrained.recipe})
    view = dataclasses.replace(reader.call("eval_view", EvalView), clips=1, crops=1)
    return model.draw(np.concatenate([middle(path, view) for path in files]), seed=seed)


def middle(path: Path, view: EvalView) -> np.ndarray:
    """The central clip of an image or a video: uint8 `(1, t, h, w, 3)`."""
    try:
        with media_boundary():
            return view(open_media(str(path)), np.random.default_rng(0))
    except BadMedia as error:
        name = printable(str(path))
        raise ValueError(f"{name} cannot be read as an image or a video: {error}") from error


def command(arguments: Sequence[str]) -> None:
    """`python main.py visualize …`."""
    parser = argparse.ArgumentParser("maskfeat visualize", description=__doc__.split("\n")[0])
    parser.add_argument("workdir", type=local_path, help="work directory of a run")
    parser.add_argument("files", type=local_path, nargs="+", help="images or videos")
    parser.add_argument(
        "--out",
        type=local_path,
        default=Path("picture.png"),
        help="PNG to write; animations are written to a GIF next to it",
    )
    parser.add_argument("--seed", type=int, help="seed of the masks; default: that of the run")
    args = parser.parse_args(arguments)
    if not args.out.absolute().parent.is_dir():
        parser.error(f"--out={args.out}: its folder does not exist")
    try:
        drawn = pictures(args.workdir, args.files, seed=args.seed)
    except (ValueError, CheckpointError, WorkdirError) as error:
        sys.exit(f"error: {error}")
    for picture in drawn.values():
        extension, encoded = encode(picture)
        path = args.out.with_suffix(extension)
        path.write_bytes(encoded)
        print(printable(str(path)))
