"""Converts checkpoints to and from PyTorch.

    python -m maskfeat_jax.convert FILE                        # only describe it
    python -m maskfeat_jax.convert FILE OUT                    # to a checkpoint of this package
    python -m maskfeat_jax.convert runs/a OUT --to=timm        # to PyTorch
    python -m maskfeat_jax.convert FILE.pyth OUT --to=timm     # from one layout to another

The model is inferred from the tensors. Code in a file is never executed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from maskfeat_jax import convert
from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints.checkpointer import CheckpointError
from maskfeat_jax.checkpoints.description import sections_of
from maskfeat_jax.checkpoints.pretrained import write_description
from maskfeat_jax.convert import stablehlo
from maskfeat_jax.convert.exporting import new_folder
from maskfeat_jax.convert.hints import CLASSIFIERS, HINTS
from maskfeat_jax.convert.layouts import READ
from maskfeat_jax.convert.verify import verify
from maskfeat_jax.files import escape_unprintable, local_path
from maskfeat_jax.sections import RecipeError
from maskfeat_jax.transfer import TransferError
from maskfeat_jax.workdir.workdir import WorkdirError

MVIT_TOKEN = "pixels of an output token of an MViT, if the file fits several"
OURS, STABLEHLO = "maskfeat_jax", "stablehlo"
# Errors that are printed without a traceback, and their exit codes, as in main.py.
EXIT_CODES: dict[type[Exception], int] = {
    convert.ConvertError: 65,
    RecipeError: 78,
    TransferError: 78,
    WorkdirError: 78,
    CheckpointError: 74,
    OSError: 74,
}


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    escape_unprintable()
    arguments = parser().parse_args(words)
    try:
        run(arguments)
    except tuple(EXIT_CODES) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind)))


def run(arguments: argparse.Namespace) -> None:
    """Reads, writes and reports."""
    hints = [name for name in HINTS if hasattr(arguments, name)]
    given = {name: getattr(arguments, name) for name in (*hints, "prefix", "allow_unexpected")}
    for name in ("clip", "tubelet"):
        given[name] = given[name] and tuple(given[name])
    if (arguments.mean is None) != (arguments.std is None):
        raise convert.ConvertError("--mean and --std: give both")
    if arguments.mean:
        given["normalise"] = Normalise(tuple(arguments.mean), tuple(arguments.std))
    trained = convert.load(arguments.source, arguments.layout, ema=arguments.ema, **given)
    print(description(trained))
    exports = arguments.out is not None and arguments.to in convert.LAYOUTS
    if arguments.verify and trained.report is not None:
        check_original(trained, arguments.source, trained.report.layout)
    elif arguments.verify and not exports:
        raise convert.ConvertError("--verify: neither the source nor the result is a PyTorch file")
    if arguments.resize:
        left = trained.params.keys()
        trained = convert.resized(trained, tuple(arguments.resize))
        print(f"resized for clips of {_by(trained.clip)} pixels")
        for name in sorted(left - trained.params.keys()):
            print(f"  {name} is left out: it is of clips with another number of frames")
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
        check_original(exported.trained, arguments.out, arguments.to)


def write_stablehlo(trained: convert.Pretrained, out: Path) -> None:
    """Writes the inference function and its description; ConvertError if it is too large."""
    with new_folder(out) as folder:
        path = folder / "model.stablehlo"
        try:
            stablehlo.write(trained, path)
        except ValueError as error:
            raise convert.ConvertError(str(error)) from error
        write_description(folder, trained, STABLEHLO, [path])


def check_original(trained: convert.Pretrained, path: Path, layout: str) -> None:
    """Prints how much our outputs differ from the original's; ConvertError beyond rounding."""
    verification = verify(trained, path, layout)
    if not verification.agrees:
        raise convert.ConvertError(f"{path}: our outputs differ from the original; {verification}")
    print(f"verified: {verification}")
    if trained.report is not None and trained.report.assumed:
        print(f"  not verified, assumed for both: {', '.join(trained.report.assumed)}")


def description(trained: convert.Pretrained) -> str:
    """A few lines about the model that was read."""
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
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m maskfeat_jax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    source = "work directory, one of its steps, a PyTorch file or an index"
    add("source", type=local_path, help=source)
    add("out", type=local_path, nargs="?", help="new folder; without it only describes the source")
    add("--from", dest="layout", choices=list(READ), help="layout of the source; default: detected")
    add(
        "--to",
        choices=[*convert.LAYOUTS, OURS, STABLEHLO],
        default=OURS,
        help="format of the result; default: %(default)s",
    )
    compare = "run the original code and ours on the same input and print the largest difference"
    add("--verify", action="store_true", help=compare)
    size: dict[str, Any] = {"type": int, "nargs": 3, "metavar": ("FRAMES", "HEIGHT", "WIDTH")}
    add("--resize", **size, help="clip size to adapt it to; images to videos and back, too")
    add("--clip", **size, help="clip size of the file, if it does not contain it")
    add("--heads", type=int, help="attention heads, if the file does not contain them")
    add("--decoder-heads", type=int, help="attention heads of the decoder, if not in the file")
    add("--kv-stride", type=int, help="stride of keys and values in the first stage of an MViT")
    add("--tubelet", **{**size, "metavar": ("FRAMES", "ROWS", "COLUMNS")}, help=MVIT_TOKEN)
    add("--head", choices=CLASSIFIERS, help="head of a PySlowFast classifier, if not in the file")
    add("--bins", type=int, help="bins along a side of a box, if not in the file")
    add("--pool", choices=["class", "mean"], help="pooling of a classifier, if not in the file")
    add("--mask-ratio", type=float, help="masked fraction of an autoencoder, if not in the file")
    add("--epsilon", type=float, help="epsilon of the layer norms, if not in the file")
    add("--activation", help="activation of the MLPs: gelu (exact) or quick_gelu")
    two = argparse.BooleanOptionalAction
    add("--residual-pooling", action=two, help="of an MViT; only True is supported")
    add("--fixed-sincos", action=two, help="USE_FIXED_SINCOS_POS; only False is supported")
    colour: dict[str, Any] = {"type": float, "nargs": 3, "metavar": ("R", "G", "B")}
    add("--mean", **colour, help="mean of the pixels, from 0 to 1, if not in the file")
    add("--std", **colour, help="standard deviation of the pixels, if not in the file")
    add("--prefix", help="of the names to read, e.g. teacher.backbone; default: detected")
    average = "use the parameters even if the source has their moving average"
    add("--no-ema", dest="ema", action="store_false", help=average)
    unexpected = "ignore tensors that the model does not have instead of refusing the file"
    add("--allow-unexpected", action="store_true", help=unexpected)
    return parser


if __name__ == "__main__":
    main()
