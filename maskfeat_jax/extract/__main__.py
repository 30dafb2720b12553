"""Computes features of images and videos, with any checkpoint.

    python -m maskfeat_jax.extract runs/a photos --out=features.npz
    python -m maskfeat_jax.extract vit.safetensors lists/test.csv --out=features.npz --per=frame

Nothing is masked. The layer norm after the encoder, if there is one, is applied as in the head: to
the mean of the tokens for a classifier, to each token otherwise. So features per clip are the input
of a classifier's linear layer, if --pool is that of the classifier.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

from input_pipeline import BadInput, BadInputs, EvalView, Loader
from input_pipeline.bad_inputs import Problem
from input_pipeline.datasets.media import media_source
from input_pipeline.memory import keep_freed_memory
from input_pipeline.source import LeftOut
from input_pipeline.texts import printable
from maskfeat_jax import sharding
from maskfeat_jax.checkpoints.checkpointer import CheckpointError
from maskfeat_jax.class_names import Aligned, ClassesDiffer
from maskfeat_jax.convert import ConvertError, Pretrained, load
from maskfeat_jax.extract.features import AXES, Features
from maskfeat_jax.files import escape_unprintable, local_path, replacing
from maskfeat_jax.models.classifier import POOLS
from maskfeat_jax.sections import Problems, RecipeError, Section, call
from maskfeat_jax.training.prefetch import Prefetcher
from maskfeat_jax.workdir.workdir import WorkdirError, environment

DTYPES = ("float32", "float16")
CHUNK = 1 << 24  # bytes, copied at a time
_MORE = """
FILES is a folder, searched at any depth, an image, a video, or a list (.txt, .csv) with lines
`path` or `path label`. If a folder contains only folders, two or more, these are the classes.
Files are recognised by their content: JPEG, PNG, WebP, BMP, TIFF, GIF (its first frame), AVIF;
MP4/MOV, Matroska/WebM, AVI, MPEG program and transport streams, ASF/WMV, FLV.

Read the result with numpy.load; it contains
  features     of each file that could be read, with a shape by --per:
               clip (files, width), frame (files, time, width), token (files, time, row, column,
               width); time, rows and columns are those of the tokens
  paths        of these files
  labels, class_names   of these files, if there are classes; class numbers are those of the
               checkpoint, if it is a classifier of the same classes
  failed       paths of the files that could not be read
  info         JSON: checkpoint, names of its classes, view, settings, versions, and how many other
               files of a folder are left out, by their ending
"""
LIMITS = {"max_pixels": int, "max_frames": int, "timeout_seconds": float}  # of `EvalView`
# Errors that are printed without a traceback, and their exit codes.
EXIT_CODES: dict[type[Exception], int] = {
    BadInput: 65,
    ConvertError: 65,
    RecipeError: 78,
    WorkdirError: 78,
    FloatingPointError: 70,
    CheckpointError: 74,
    OSError: 74,
}


def view_of(
    trained: Pretrained, clips: int, crops: int, stride: int | None, **limits: float | None
) -> EvalView:
    """The views of a file: as the run evaluates, if the checkpoint is one of a run.

    Files have no key frame: views of a run on boxes are of the middle. A stride is in frames;
    None, also for one of `LIMITS`, is that of the run.

    Raises:
      RecipeError: a setting is out of range, or the stride is not known.
    """
    frames, height, width = trained.clip
    section: Section = trained.recipe.get("eval_view", {})
    if height != width:
        raise RecipeError(
            f"{trained.origin} is for clips of {height}x{width}; only square ones are supported"
        )
    if frames > 1 and not section and stride is None:
        raise RecipeError(
            f"{trained.origin} does not contain the stride of the {frames} frames of its clips: "
            "give --stride"
        )
    if section.get("sampling") == "centred":
        section = {**section, "sampling": "dense", "full_frame": False}
    section = {**section, "size": height, "frames": frames, "clips": clips, "crops": crops}
    given = {key: value for key, value in {"stride": stride, **limits}.items() if value is not None}
    return call("view", EvalView, {**section, **given})


class Failures(BadInputs):
    """Raises at the first file that cannot be read, or collects the names of all."""

    def __init__(self, skip: bool):
        super().__init__()
        self._skip, self._last = skip, -1
        self.names, self.first = list[str](), ""

    def note(self, name: str, index: int, problem: Problem) -> None:
        """Raises BadInput, or lists the file; once for all of its views."""
        what = f"{printable(name)} cannot be read ({problem.kind}: {problem.reason})"
        self.first = self.first or what
        if not self._skip:
            raise BadInput(f"{what}; repair it, or skip such files with --skip-bad")
        if index != self._last:
            self._last = index
            self.names.append(name)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some files that could be read."""

    features: np.ndarray  # means over the views of each file
    index: np.ndarray  # int64 (files,), indices in the source
    labels: np.ndarray | None  # int32 (files,), or None without classes


def extract(features: Features, loader: Loader, dtype: str = "float32") -> Iterator[Rows]:
    """Yields features of the files of a source, in order, batch by batch, on all devices.

    The batches of the loader contain whole files and the same number of rows for each device.

    Raises:
      BadInput: a file cannot be read, and the loader does not skip bad inputs.
      FloatingPointError: features are not finite, or too large for the dtype.
    """
    mesh, views = sharding.create_mesh(), loader.views
    rows = sharding.batch_sharding(mesh)
    params = jax.device_put(features.params, sharding.replicated(mesh))
    step = jax.jit(sharding.on_mesh(mesh, features), in_shardings=(None, rows), out_shardings=rows)

    def to_device(batch: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], jax.Array]:
        return batch, sharding.to_device(mesh, {"video": batch["video"]})["video"]

    with contextlib.closing(Prefetcher(loader.eval_batches("skip"), to_device)) as batches:
        for batch, video in batches:
            computed = np.asarray(step(params, video))
            valid = batch["valid"].reshape(-1, views).all(1)
            computed = computed.reshape(-1, views, *computed.shape[1:]).mean(1)[valid]
            index = batch["index"][::views][valid]
            with np.errstate(over="ignore"):
                computed = computed.astype(dtype)
            finite = np.isfinite(computed).all(tuple(range(1, computed.ndim)))
            if not finite.all():
                name = loader.source.name_of(int(index[np.argmin(finite)]))
                raise FloatingPointError(f"{name}: features are not finite in {dtype}")
            labels = batch["label"][::views][valid] if "label" in batch else None
            yield Rows(computed, index, labels)


def batch_rows(view: EvalView, files: int, target: int) -> int:
    """Rows of a batch of about `target` clips: whole files, the same number for each device."""
    views = view.clips * view.crops
    unit = math.lcm(views, jax.device_count())
    return max(1, min(target // unit, -(-files * views // unit))) * unit


def write(
    out: Path, features: Features, loader: Loader, failures: Failures, dtype: str, info: Section
) -> tuple[int, ...]:
    """Writes the features of all files of a loader as an .npz, atomically; returns their shape.

    They need not fit in memory: they are written to a temporary file first, since their number is
    known at the end.

    Raises:
      BadInput: a file cannot be read, or if `failures` skips such files, none can.
      FloatingPointError: features are not finite, or too large for the dtype.
      OSError: the file cannot be written.
    """
    source, shape = loader.source, ()
    index: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    with contextlib.ExitStack() as stack, replacing(out) as packed:
        raw = out.with_name(f".{out.name}.{os.getpid()}.rows")
        stack.callback(raw.unlink, missing_ok=True)
        with raw.open("wb") as file:
            steps = extract(features, loader, dtype)
            for rows in tqdm(steps, total=loader.eval_steps, disable=None):
                file.write(rows.features.tobytes())
                index.append(rows.index)
                labels += [] if rows.labels is None else [rows.labels]
                shape = rows.features.shape[1:]
        names = [source.name_of(int(i)) for i in np.concatenate(index)]
        if not names:
            raise BadInput(f"none of {source.num_examples} files can be read: {failures.first}")
        arrays = {"paths": np.array(names), "failed": np.array(failures.names, np.str_)}
        if source.class_names is not None:
            arrays["labels"] = np.concatenate(labels)
            arrays["class_names"] = np.array(source.class_names)
        arrays["info"] = np.array(json.dumps(info))
        with raw.open("rb") as file:
            _pack(packed, file, (len(names), *shape), np.dtype(dtype), arrays)
    return len(names), *shape


def _pack(
    path: Path, rows: IO[bytes], shape: tuple[int, ...], dtype: np.dtype, arrays: dict[str, Any]
) -> None:
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("features.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_1_0(entry, header)
            shutil.copyfileobj(rows, entry, CHUNK)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def run(words: argparse.Namespace) -> str:
    """Computes and writes the features; returns a summary."""
    trained = load(words.checkpoint)
    problems = Problems()
    with problems.gather():
        features = Features(trained, words.per, words.pool)
    with problems.gather():
        limits = {key: getattr(words, key) for key in LIMITS}
        view = view_of(trained, words.clips, words.crops, words.stride, **limits)
    with problems.gather():
        source = media_source(words.files, root=words.root, labelled=not words.no_labels)
    if words.per != "clip" and words.clips * words.crops > 1:
        problems.append("--clips and --crops need --per=clip, which takes their mean")
    if words.batch_size < 1:
        problems.append(f"--batch-size={words.batch_size} is not positive")
    if not words.out.absolute().parent.is_dir():
        problems.append(f"--out={words.out}: its folder does not exist")
    if words.out.is_dir():
        problems.append(f"--out={words.out} is a folder")
    problems.stop()
    failures, left_out = Failures(words.skip_bad), getattr(source, "left_out", LeftOut())
    assumed = trained.report.assumed if trained.report else ()
    if trained.class_names and source.class_names:
        with contextlib.suppress(ClassesDiffer):  # other classes keep their own numbers
            source = Aligned(
                source, trained.class_names, owner="the checkpoint", wanted_by="the files"
            )
    info = {
        "checkpoint": trained.origin,
        "assumed": assumed,
        "files": str(words.files),
        "left_out": left_out,
        "axes": ("file", *AXES[words.per]),
        "pool": words.pool if words.per == "clip" else None,
        "norm": features.norm,
        "class_names": trained.class_names,
        "view": dataclasses.asdict(view),
        **environment(),
    }
    rows = batch_rows(view, source.num_examples, words.batch_size)
    loader = Loader(source, view, batch_size=rows, bad_inputs=failures)
    shape = write(words.out, features, loader, failures, words.dtype, info)
    size, failed = "x".join(map(str, shape)), len(failures.names)
    sentences = [
        f"{words.out}: features {size} {words.dtype} of {shape[0]} files, by {trained.origin}",
        f"not in the checkpoint, assumed: {', '.join(assumed)}" if assumed else "",
        f"{failed} could not be read, see `failed`" if failed else "",
        str(left_out),
    ]
    return printable("; ".join(filter(None, sentences)))


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m maskfeat_jax.extract",
        description=__doc__,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("checkpoint", type=local_path, help="work directory, one of its steps, or PyTorch file")
    add("files", type=local_path, metavar="FILES", help="folder, list, image or video")
    add("--out", type=local_path, required=True, help=".npz to write")
    add("--per", choices=AXES, default="clip", help="what a feature describes (%(default)s)")
    add("--pool", choices=POOLS, default="mean", help="pooling of features per clip (%(default)s)")
    add("--clips", type=int, default=1, help="clips per video, which are averaged (%(default)s)")
    add(
        "--crops",
        type=int,
        default=1,
        help="1 or 3 crops per clip, which are averaged (%(default)s)",
    )
    add("--stride", type=int, help="frames between samples; default: as the run evaluates")
    for key, kind in LIMITS.items():
        add(f"--{key.replace('_', '-')}", type=kind, help="default: as the run evaluates")
    add("--root", help="folder for relative paths of a list; default: that of the list")
    add("--no-labels", action="store_true", help="folders are not classes; ignore labels of a list")
    add("--batch-size", type=int, default=64, help="clips per batch (%(default)s)")
    add("--dtype", choices=DTYPES, default="float32", help="dtype of the features (%(default)s)")
    add("--skip-bad", action="store_true", help="skip files that cannot be read")
    escape_unprintable()
    words = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)  # Orbax logs every file it reads
    keep_freed_memory()
    try:
        print(run(words))
    except tuple(EXIT_CODES) as error:
        code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        print(f"error: {error}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
