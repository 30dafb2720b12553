"""Demo: MaskFeat pre-training and a classifier, on generated data, in minutes, without a download.

    python demo.py             # images of shapes, ViT
    python demo.py --video     # MP4 files of travelling shapes: outline and direction

Pre-trains without labels by predicting HOG of masked patches, then trains two classifiers on few
labelled examples for the same number of epochs: one from the pre-trained encoder, one from scratch.
The same command again continues where it stopped. Exit code 1 means that a result is worse than it
should be.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from maskfeat_jax.files import local_path
from maskfeat_jax.recipes import load, override

MIN_GAIN_ON_CONSTANT = 0.15  # of the loss of the best constant prediction
# Of the classifiers, top-1, with each seed. Chance is 0.1 on images. On videos it is 0.05, and one
# frame allows 0.5.
MIN_FINETUNED = 0.6
MIN_SCRATCH = 0.2
MIN_GAIN_ON_SCRATCH = 0.1
# Everything as in the demo, in seconds and much too short to learn from.
QUICK = {
    "data.num_examples": 64,
    "eval_data.num_examples": 64,
    "model.width": 32,
    "model.depth": 1,
    "optim.warmup_epochs": 0.0,
    "run.epochs": 1.0,
    "run.batch_size": 32,
}

Recipe = dict[str, Any]
Runner = Callable[[Recipe, Path], Any]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two classifiers trained alike on the same labels.

    Attributes:
      seed: of order, augmentation, initial values, and of which examples have labels.
      finetuned: top-1 on test data, from the pre-trained encoder.
      scratch: top-1 on the same data, from random parameters.
    """

    seed: int
    finetuned: float
    scratch: float

    @property
    def gain(self) -> float:
        """By how much pre-training improves top-1."""
        return self.finetuned - self.scratch


@dataclasses.dataclass(frozen=True)
class Summary:
    """Results of the demo.

    Attributes:
      loss: squared error of predicted HOG on masked patches of test data.
      loss_of_best_constant: that of the constant that fits those data best.
      pairs: one for each seed.
      min_scratch: top-1 that training from scratch should reach.
    """

    loss: float
    loss_of_best_constant: float
    pairs: tuple[Pair, ...]
    min_scratch: float = MIN_SCRATCH

    def failures(self) -> list[str]:
        """One sentence for each result that is worse than it should be."""
        sentences = []
        if not self.loss <= (1 - MIN_GAIN_ON_CONSTANT) * self.loss_of_best_constant:
            sentences.append(
                f"Pre-training failed: the HOG loss {self.loss:.4f} is not "
                f"{MIN_GAIN_ON_CONSTANT:.0%} below {self.loss_of_best_constant:.4f}, that of the "
                "best constant."
            )
        for pair in self.pairs:
            for name, value, least in (
                ("fine-tuned", pair.finetuned, MIN_FINETUNED),
                ("from scratch", pair.scratch, self.min_scratch),
                ("fine-tuned minus from scratch", pair.gain, MIN_GAIN_ON_SCRATCH),
            ):
                if not value >= least:  # also where it is NaN
                    sentences.append(
                        f"Seed {pair.seed}: top-1 {name} is {value:.1%}, expected at least "
                        f"{least:.0%}."
                    )
        return sentences

    def table(self) -> str:
        """The results as text."""
        below = 1 - self.loss / self.loss_of_best_constant
        rows = [(f"seed {pair.seed}", [pair]) for pair in self.pairs]
        if len(self.pairs) > 1:
            rows.append(("mean", list(self.pairs)))
        lines = [
            f"HOG of masked patches, test data: loss {self.loss:.4f}, best constant "
            f"{self.loss_of_best_constant:.4f} ({below:.0%} below)",
            "",
            "top-1, %   fine-tuned      scratch         difference",
        ]
        for title, pairs in rows:
            columns = (
                [getattr(p, name) for p in pairs] for name in ("finetuned", "scratch", "gain")
            )
            lines.append(f"{title:<11}" + "".join(f"{_percent(column):<16}" for column in columns))
        if len(self.pairs) > 1:
            lines.append(f"(± standard deviation over {len(self.pairs)} seeds, one pre-training)")
        return "\n".join(line.rstrip() for line in lines)

    def as_dict(self) -> dict[str, Any]:
        """For `summary.json`."""
        return {**dataclasses.asdict(self), "failures": self.failures()}


def _percent(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def train_all(kind: str, workdir: Path, seeds: int, quick: bool, run: Runner) -> Summary:
    """Trains what is not trained yet, then reads the results.

    Args:
      kind: name of the recipe, "demo_images" or "demo_video".
      workdir: gets one work directory for each run.
      seeds: number of pairs of classifiers.
      quick: shrink everything to seconds, too short to learn anything.
      run: trains a recipe in a work directory.
    """
    pretrained = workdir / "pretrain"

    def trained(stage: str, directory: Path, changes: Mapping[str, Any]) -> dict[str, float]:
        name = f"configs/{kind}.py:{stage}"
        command = ["python main.py", f"--config={name}", f"--workdir={directory}"]
        command += [f"--config.{key}={value}" for key, value in changes.items()]
        print("\n$ " + " \\\n    ".join(command), flush=True)
        config = override(load(name), {**changes, **(QUICK if quick else {})})
        run(config.to_dict(), directory)
        return last_evaluation(directory)

    hog = trained("pretrain", pretrained, {})
    pairs = []
    for seed in range(seeds):
        # Other examples than those of pre-training, whose data has seed 0.
        changes = {"seed": seed, "data.seed": 1 + seed}
        start = {**changes, "model.init_from": str(pretrained)}
        finetuned = trained("finetune", workdir / f"finetune_{seed}", start)
        scratch = trained("scratch", workdir / f"scratch_{seed}", changes)
        pairs.append(Pair(seed, finetuned["top1"], scratch["top1"]))
    # From scratch, accuracy on videos varies: 15 to 37 % with three seeds.
    least = MIN_SCRATCH if kind == "demo_images" else 0.0
    return Summary(hog["loss"], hog["loss_of_best_constant"], tuple(pairs), least)


def last_evaluation(directory: Path) -> dict[str, float]:
    """The last evaluation that a run has recorded."""
    with (directory / "metrics.jsonl").open(encoding="utf-8") as lines:
        entries = [entry for entry in map(json.loads, lines) if "eval/loss" in entry]
    return {k.removeprefix("eval/"): v for k, v in entries[-1].items() if k.startswith("eval/")}


def output_paths(workdir: Path) -> str:
    """Where the output is, as text."""
    pictures = [
        max((workdir / name / "pictures").glob("*.*"), key=lambda path: path.stat().st_mtime)
        for name in ("pretrain", "finetune_0", "scratch_0")
    ]
    return "\n".join(
        [
            f"pictures      {pictures[0]}   input, masked, predicted HOG, target",
            *(f"              {path}" for path in pictures[1:]),
            f"checkpoints   {workdir}/*/checkpoints",
            f"TensorBoard   tensorboard --logdir {workdir}",
            f"numbers       {workdir / 'summary.json'}",
        ]
    )


def main() -> int:
    """Runs the demo; 0 if all results are as good as they should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--video", action="store_true", help="videos instead of images")
    parser.add_argument("--workdir", type=local_path, help="default: runs/demo or runs/demo_video")
    parser.add_argument("--seeds", type=int, default=1, help="pairs of classifiers; default: 1")
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds: tests the code, learns nothing"
    )
    options = parser.parse_args()
    kind = "demo_video" if options.video else "demo_images"
    workdir = options.workdir or Path("runs") / ("demo_video" if options.video else "demo")
    if options.seeds < 1:
        parser.error(f"--seeds={options.seeds} must be at least 1")
    start = time.perf_counter()

    from absl import logging

    from input_pipeline.memory import (
        keep_freed_memory,  # here, so that --help does not wait for JAX
    )
    from maskfeat_jax.commands.exit_codes import EXIT_CODES, exit_code_of
    from maskfeat_jax.commands.train import run_recipe

    keep_freed_memory()
    logging.set_verbosity(logging.WARNING)  # Orbax logs every file that it writes
    try:
        summary = train_all(kind, workdir, options.seeds, options.quick, run_recipe)
    except tuple(EXIT_CODES) as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_code_of(error)
    text = json.dumps(summary.as_dict(), indent=2)
    (workdir / "summary.json").write_text(text + "\n", encoding="utf-8")
    print(f"\n{summary.table()}\n\n{output_paths(workdir)}")
    print(f"took          {(time.perf_counter() - start) / 60:.1f} min")
    for sentence in summary.failures():
        print(sentence)
    return 1 if summary.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
