"""Draws what a run makes of images.

    python -m maskfeat_jax.visualize runs/a photo.jpg other.png --out=picture.png

Pre-training: input, masked input, predicted and wanted features. Fine-tuning: predicted classes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image, UnidentifiedImageError

from maskfeat_jax.build import Problems
from maskfeat_jax.checkpoint import CheckpointError, load_params
from maskfeat_jax.tasks import TASKS
from maskfeat_jax.workdir import WorkdirError, read_recipe


def picture(workdir: Path, images: Sequence[Path], *, seed: int | None = None) -> np.ndarray:
    """A picture of what the newest good checkpoint of a run makes of some images.

    Args:
      workdir: of the run.
      images: files that Pillow can read; the middle square of each is taken.
      seed: of the masks; None for that of the run.

    Returns:
      uint8 `(height, width, 3)`.

    Raises:
      CheckpointError, WorkdirError: the run cannot be read.
      ValueError: an image cannot be read.
    """
    recipe = read_recipe(workdir)
    if seed is not None:
        recipe["seed"] = seed
    size = recipe["eval_view"]["size"]
    name = "finetune" if "num_classes" in recipe["model"] else "pretrain"
    problems = Problems()
    task = TASKS[name].from_recipe(recipe, (1, size, size), problems)
    problems.stop()
    assert task is not None
    params = load_params(workdir).evaluated
    video = np.stack([middle(path, size, recipe["eval_view"].get("resize")) for path in images])
    shown = jax.device_get(jax.jit(task.show_step)(params, video))
    classes = recipe["model"].get("num_classes", 0)
    return task.draw(video, shown, [f"class {k}" for k in range(classes)])


def middle(path: Path, size: int, resize: int | None) -> np.ndarray:
    """The middle square of an image whose shorter side is first made `resize`: one clip."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    scale = (resize or int(size / 0.875)) / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))[None]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workdir", type=Path, help="work directory of a run")
    parser.add_argument("images", type=Path, nargs="+", help="image files")
    parser.add_argument("--out", type=Path, default=Path("picture.png"), help="PNG to write")
    parser.add_argument("--seed", type=int, help="another seed gives other masks")
    words = parser.parse_args()
    try:
        drawn = picture(words.workdir, words.images, seed=words.seed)
    except (ValueError, CheckpointError, WorkdirError) as error:
        sys.exit(f"error: {error}")
    Image.fromarray(drawn).save(words.out)
    print(words.out)


if __name__ == "__main__":
    main()
