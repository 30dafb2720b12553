"""Converts checkpoints to and from PyTorch.

    python -m maskfeat_jax.convert FILE                        # what is it? nothing is written
    python -m maskfeat_jax.convert FILE OUT                    # to a checkpoint of this package
    python -m maskfeat_jax.convert runs/a OUT --to=timm        # to PyTorch
    python -m maskfeat_jax.convert FILE.pyth OUT --to=timm     # from one layout to another

The model is read from the file. Nothing in a file is ever executed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from maskfeat_jax import convert, stablehlo
from maskfeat_jax.build import RecipeError
from maskfeat_jax.checkpoint import CheckpointError
from maskfeat_jax.convert import metadata
from maskfeat_jax.convert.exporting import fresh_folder
from maskfeat_jax.convert.verify import verify
from maskfeat_jax.transfer import TransferError
from maskfeat_jax.workdir import WorkdirError

OURS, STABLEHLO = "maskfeat_jax", "stablehlo"
# Failures whose message says it all.
ERRORS = (convert.ConvertError, CheckpointError, RecipeError, TransferError, WorkdirError)


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    arguments = parser().parse_args(words)
    try:
        run(arguments)
    except ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(65)


def run(arguments: argparse.Namespace) -> None:
    """Reads, writes and reports."""
    of_files = {
        "ema": arguments.ema,
        "allow_unexpected": arguments.allow_unexpected,
        "heads": arguments.heads,
        "decoder_heads": arguments.decoder_heads,
        "pool": arguments.pool,
        "clip": arguments.clip and tuple(arguments.clip),
    }
    trained = convert.load(arguments.source, arguments.layout, **of_files)
    print(description(trained))
    if arguments.verify and trained.report is not None:
        prove(trained, arguments.source, trained.report.layout)
    if arguments.resize:
        trained = convert.resized(trained, tuple(arguments.resize))
        print(f"resized for clips of {_by(trained.clip)} pixels")
    if arguments.out is None:
        return
    exported = None
    if arguments.to == OURS:
        layout = trained.report.layout if trained.report else OURS
        convert.save(trained, arguments.out, layout)
    elif arguments.to == STABLEHLO:
        write_stablehlo(trained, arguments.out)
    else:
        exported = convert.write(trained, arguments.out, arguments.to)
        for sentence in exported.left_out:
            print(f"  {sentence}")
    print(f"written: {', '.join(str(path) for path in sorted(arguments.out.iterdir()))}")
    if arguments.verify and exported is not None:
        prove(exported.trained, arguments.out, arguments.to)


def write_stablehlo(trained: convert.Trained, out: Path) -> None:
    """Writes the inference function and its description.

    Raises:
      ConvertError: the model is too large for the format.
    """
    try:
        program = stablehlo.export(trained)
    except ValueError as error:
        raise convert.ConvertError(str(error)) from error
    path = fresh_folder(out) / "model.stablehlo"
    path.write_bytes(program)
    metadata.write(out, trained, STABLEHLO, [path], [])


def prove(trained: convert.Trained, path: Path, layout: str) -> None:
    """Prints how far ours and the original are apart.

    Raises:
      ConvertError: further than rounding explains, or the original cannot be run.
    """
    verification = verify(trained, path, layout)
    print(f"verified: {verification}")
    if not verification.agrees:
        raise convert.ConvertError(f"{path}: the original and ours do not agree")


def description(trained: convert.Trained) -> str:
    """What was read, in a few lines."""
    sections = metadata.sections_of(trained.model)
    size = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
    lines = [f"{trained.origin}: {size:,} parameters, clips of {_by(trained.clip)} pixels"]
    for name, section in sections.items():
        fields = ", ".join(f"{key}={value!r}" for key, value in section.items())
        lines.append(f"  {name}: {fields}")
    lines.append(f"  normalise: mean={trained.normalise.mean}, std={trained.normalise.std}")
    if trained.report is not None:
        lines.append(f"  {trained.report}")
    return "\n".join(lines)


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m maskfeat_jax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    layouts = list(convert.LAYOUTS)
    add("source", type=Path, help="work directory, one of its steps, or a file of PyTorch")
    add("out", type=Path, nargs="?", help="folder to make; without it the source is only described")
    add("--from", dest="layout", choices=layouts, help="layout of the source; default: found out")
    add("--to", choices=[*layouts, OURS, STABLEHLO], default=OURS, help="default: %(default)s")
    add(
        "--verify",
        action="store_true",
        help="run the original's own code beside ours on the same input and tell the difference",
    )
    size: dict[str, Any] = {"type": int, "nargs": 3, "metavar": ("FRAMES", "HEIGHT", "WIDTH")}
    add("--resize", **size, help="interpolate tables of positions for clips of this size")
    add("--clip", **size, help="what the positions are for now, where the file does not tell")
    add("--heads", type=int, help="attention heads, where the file does not tell")
    add("--decoder-heads", type=int, help="of the decoder, likewise")
    add("--pool", choices=["class", "mean"], help="what a classifier reads, likewise")
    add(
        "--no-ema", dest="ema", action="store_false", help="not the moving average, if there is one"
    )
    add(
        "--allow-unexpected",
        action="store_true",
        help="leave out tensors that the model does not have, instead of refusing the file",
    )
    return parser


if __name__ == "__main__":
    main()
