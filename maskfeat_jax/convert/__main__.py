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

from maskfeat_jax import convert
from maskfeat_jax.checkpoints.checkpointer import CheckpointError
from maskfeat_jax.checkpoints.description import sections_of
from maskfeat_jax.checkpoints.pretrained import write_description
from maskfeat_jax.convert import stablehlo
from maskfeat_jax.convert.exporting import new_folder
from maskfeat_jax.convert.verify import verify
from maskfeat_jax.sections import RecipeError
from maskfeat_jax.transfer import TransferError
from maskfeat_jax.workdir.workdir import WorkdirError

OURS, STABLEHLO = "maskfeat_jax", "stablehlo"
# Failures whose message says it all, and the codes of main.py.
EXIT_CODES: dict[type[Exception], int] = {
    convert.ConvertError: 65,
    RecipeError: 78,
    TransferError: 78,
    WorkdirError: 78,
    CheckpointError: 74,
    OSError: 74,
}


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    arguments = parser().parse_args(words)
    try:
        run(arguments)
    except tuple(EXIT_CODES) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind)))


def run(arguments: argparse.Namespace) -> None:
    """Reads, writes and reports."""
    hints = ("heads", "decoder_heads", "pool", "kv_stride", "allow_unexpected")
    given = {name: getattr(arguments, name) for name in hints}
    given["clip"] = arguments.clip and tuple(arguments.clip)
    trained = convert.load(arguments.source, arguments.layout, ema=arguments.ema, **given)
    print(description(trained))
    exports = arguments.out is not None and arguments.to in convert.LAYOUTS
    if arguments.verify and trained.report is not None:
        prove(trained, arguments.source, trained.report.layout)
    elif arguments.verify and not exports:
        raise convert.ConvertError("--verify: no file of PyTorch is read or written")
    if arguments.resize:
        trained = convert.resized(trained, tuple(arguments.resize))
        print(f"resized for clips of {_by(trained.clip)} pixels")
    if arguments.out is None:
        return
    if exports:
        exported = convert.write(trained, arguments.out, arguments.to)
        for sentence in exported.left_out:
            print(f"  {sentence}")
    elif arguments.to == OURS:
        convert.save(trained, arguments.out, trained.report.layout if trained.report else OURS)
    else:
        write_stablehlo(trained, arguments.out)
    print(f"written: {', '.join(str(path) for path in sorted(arguments.out.iterdir()))}")
    if arguments.verify and exports:
        prove(exported.trained, arguments.out, arguments.to)


def write_stablehlo(trained: convert.Pretrained, out: Path) -> None:
    """Writes the inference function and its description; ConvertError if it is too large."""
    with new_folder(out) as folder:
        path = folder / "model.stablehlo"
        try:
            stablehlo.write(trained, path)
        except ValueError as error:
            raise convert.ConvertError(str(error)) from error
        write_description(folder, trained, STABLEHLO, [path])


def prove(trained: convert.Pretrained, path: Path, layout: str) -> None:
    """Prints how far ours and the original are apart; ConvertError beyond rounding."""
    verification = verify(trained, path, layout)
    if not verification.agrees:
        raise convert.ConvertError(f"{path}: ours is not the original; {verification}")
    print(f"verified: {verification}")
    if trained.report is not None and trained.report.assumed:
        print(f"  the original was built with {', '.join(trained.report.assumed)}, as assumed")


def description(trained: convert.Pretrained) -> str:
    """What was read, in a few lines."""
    size = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
    lines = [f"{trained.origin}: {size:,} parameters, clips of {_by(trained.clip)} pixels"]
    for name, section in sections_of(trained.model).items():
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
    compare = "run the original's own code beside ours on the same input and tell the difference"
    add("--verify", action="store_true", help=compare)
    size: dict[str, Any] = {"type": int, "nargs": 3, "metavar": ("FRAMES", "HEIGHT", "WIDTH")}
    add("--resize", **size, help="interpolate tables of positions for clips of this size")
    add("--clip", **size, help="what the positions are for now, where the file does not tell")
    add("--heads", type=int, help="attention heads, where the file does not tell")
    add("--decoder-heads", type=int, help="of the decoder, likewise")
    add("--kv-stride", type=int, help="of the first stage of an MViT, likewise")
    add("--pool", choices=["class", "mean"], help="what a classifier reads, likewise")
    average = "not the moving average, if there is one"
    add("--no-ema", dest="ema", action="store_false", help=average)
    unexpected = "leave out tensors that the model does not have, instead of refusing the file"
    add("--allow-unexpected", action="store_true", help=unexpected)
    return parser


if __name__ == "__main__":
    main()
