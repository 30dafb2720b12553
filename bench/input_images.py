"""Images per second of our loader and, if torch is installed, of torch's DataLoader with Pillow.

    python -m bench.input_images [--workers 2] [--images 256] [--repeats 5] [--area 0.5 1.0]

Both read the same JPEG files (generated: 500x375, about 85 KB), draw crops from the same
distribution, resize to 224 with antialiased bicubic and yield batches of 64 as uint8. Runs
alternate; the ratio is that of the medians. The machine should be idle otherwise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image, ImageDraw

from input_pipeline import ImageFolder, Loader, TrainView
from input_pipeline.views.crops import random_resized_crop

SIZE, BATCH = 224, 64


def make_image(rng: np.random.Generator, height: int = 375, width: int = 500) -> Image.Image:
    """Gradients, shapes and noise that compress about as well as a photograph."""
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pencil = ImageDraw.Draw(image)
    for _ in range(30):
        x, y, side = rng.integers(0, (width, height, 80))
        colour = tuple(rng.integers(0, 256, 3).tolist())
        pencil.ellipse([x - side, y - side / 2, x + side, y + side / 2], fill=colour)
    grain = (
        np.asarray(image)
        + rng.normal(0, 11, (height, width, 1))
        + rng.normal(0, 4, (height, width, 3))
    )
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))


def make_files(folder: str, count: int) -> list[Path]:
    """Writes `count` JPEG files of quality 90."""
    rng = np.random.default_rng(0)
    paths = [Path(folder) / f"{index:05d}.jpg" for index in range(count)]
    for path in paths:
        make_image(rng).save(path, quality=90)
    return paths


def torch_loader(paths: list[Path], workers: int, area: tuple[float, float]):
    """The usual PyTorch loader: worker processes, Pillow, random crops as in torchvision."""
    import torch

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(paths)

        def __getitem__(self, index):
            image = Image.open(paths[index]).convert("RGB")
            rng = np.random.default_rng()
            top, left, height, width = random_resized_crop(
                rng, image.height, image.width, area, (3 / 4, 4 / 3)
            )
            image = image.crop((left, top, left + width, top + height))
            return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).copy()

    return torch.utils.data.DataLoader(
        Images(),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
    )


def endless(loader) -> Iterator:
    """Repeats a torch loader without end."""
    while True:
        yield from loader


def measure(batches: Iterator, steps: int) -> float:
    """Images per second over `steps` batches, after filling the buffers."""
    for _ in range(3):
        next(batches)
    start = time.perf_counter()
    for _ in range(steps):
        next(batches)
    return steps * BATCH / (time.perf_counter() - start)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--area", type=float, nargs=2, default=(0.5, 1.0))
    args = parser.parse_args()
    area = (args.area[0], args.area[1])
    with tempfile.TemporaryDirectory() as folder:
        paths = make_files(folder, args.images)
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1000
        print(f"{len(paths)} JPEG files of {kilobytes:.0f} KB, {args.workers} workers, area {area}")
        ours = Loader(
            ImageFolder(path=folder),
            TrainView(size=SIZE, crop_area=area),
            batch_size=BATCH,
            workers=args.workers,
        )
        make: dict[str, Callable[[], Iterator]] = {"ours": ours.train_batches}
        try:
            theirs = torch_loader(paths, args.workers, area)
            make["torch"] = lambda: endless(theirs)
        except ImportError:
            print("torch is not installed: only our loader is measured")
        speeds: dict[str, list[float]] = {name: [] for name in make}
        for _ in range(args.repeats):
            for name, batches in make.items():
                speeds[name].append(measure(batches(), args.steps))
        for name, values in speeds.items():
            runs = " ".join(f"{value:.0f}" for value in values)
            print(f"{name:6s} median {statistics.median(values):6.0f} images/s   runs: {runs}")
        if "torch" in speeds:
            ratio = statistics.median(speeds["ours"]) / statistics.median(speeds["torch"])
            print(f"ours / torch: {ratio:.2f}")


if __name__ == "__main__":
    main()
