"""Shows that it learns: MaskFeat on what is drawn here, from nothing to a classifier, no download.

    python demo.py             # pictures of shapes, a ViT
    python demo.py --video     # MP4 files of moving shapes, an MViTv2

Pre-trains without labels by predicting HOG of masked patches, then trains classifiers on few
labels: from the pre-trained encoder and, for the same number of epochs, from scratch. The same
command again goes on where it stood. Exit code 1: it did not learn as it should; of videos, only
pre-training must learn (docs/experiments.md says why).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MIN_GAIN_ON_CONSTANT = 0.15  # of the loss of the best constant prediction
MIN_GAIN_ON_SCRATCH = 0.05  # top-1, mean over seeds
# Everything as in the demo, in seconds and far too little to learn from.
QUICK = {
    "data.num_examples": 64,
    "eval_data.num_examples": 64,
    "optim.warmup_epochs": 0,
    "run.epochs": 1,
    "run.batch_size": 32,
}
SMALL = {
    "demo": {"model.width": 32, "model.depth": 1},
    "demo_video": {"model.width": 8, "model.depth": 2},
}

Recipe = dict[str, Any]
Runner = Callable[[Recipe, Path], Any]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two classifiers trained alike on the same labels.

    Attributes:
      seed: of order, augmentation, head and of which examples have labels.
      finetuned: top-1 on held-out data, started from the pre-trained encoder.
      scratch: top-1 on the same data, started from random parameters.
    """

    seed: int
    finetuned: float
    scratch: float

    @property
    def gain(self) -> float:
        """By how much pre-training helps."""
        return self.finetuned - self.scratch


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the demo found.

    Attributes:
      loss: squared error of predicted HOG on masked patches of held-out data.
      loss_of_best_constant: that of the constant that fits those data best.
      pairs: one for each seed.
      compared: whether fine-tuning must beat training from scratch.
    """

    loss: float
    loss_of_best_constant: float
    pairs: tuple[Pair, ...]
    compared: bool = True

    def failures(self) -> list[str]:
        """One sentence for each thing that was not learnt."""
        sentences = []
        if not self.loss <= (1 - MIN_GAIN_ON_CONSTANT) * self.loss_of_best_constant:
            sentences.append(
                f"Pre-training did not learn: the HOG loss {self.loss:.4f} is not "
                f"{MIN_GAIN_ON_CONSTANT:.0%} below that of the best constant, "
                f"{self.loss_of_best_constant:.4f}."
            )
        gain = statistics.mean(pair.gain for pair in self.pairs)
        helped = gain >= MIN_GAIN_ON_SCRATCH and min(pair.gain for pair in self.pairs) > 0
        if self.compared and not helped:
            sentences.append(
                "Pre-training did not help: fine-tuning should beat training from scratch with "
                f"each seed, and by {100 * MIN_GAIN_ON_SCRATCH:.0f} points on average; it is "
                f"{100 * gain:+.1f}."
            )
        return sentences

    def table(self) -> str:
        """The numbers for people."""
        below = 1 - self.loss / self.loss_of_best_constant
        rows = [(f"seed {p.seed}", [p.finetuned], [p.scratch], [p.gain]) for p in self.pairs]
        columns = [[getattr(p, name) for p in self.pairs] for name in ("finetuned", "scratch")]
        rows.append(("mean", *columns, [pair.gain for pair in self.pairs]))
        lines = [
            f"HOG of masked patches, held-out data: loss {self.loss:.4f}, best constant "
            f"{self.loss_of_best_constant:.4f} ({below:.0%} below)",
            "",
            "top-1, %   fine-tuned      scratch         difference",
        ]
        for title, *cells in rows:
            lines.append(f"{title:<11}" + "".join(f"{_percent(cell):<16}" for cell in cells))
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
      kind: "demo" or "demo_video": how the names of the recipes begin.
      workdir: gets one work directory for each run.
      seeds: pairs of classifiers.
      quick: shrink everything to seconds; nothing is learnt then.
      run: trains a recipe in a work directory.
    """
    pretrained = workdir / "pretrain"

    def trained(name: str, directory: Path, changes: Mapping[str, Any]) -> dict[str, float]:
        command = ["python main.py", f"--config=configs/{name}.py", f"--workdir={directory}"]
        command += [f"--config.{key}={value}" for key, value in changes.items()]
        print("\n$ " + " \\\n    ".join(command), flush=True)
        run(recipe(name, {**changes, **(QUICK | SMALL[kind] if quick else {})}), directory)
        return last_evaluation(directory)

    hog = trained(f"{kind}_pretrain", pretrained, {})
    pairs = []
    for seed in range(seeds):
        # Other examples than those of pre-training, whose data has seed 0.
        changes = {"seed": seed, "data.seed": 1 + seed}
        start = {**changes, "model.init_from": str(pretrained)}
        finetuned = trained(f"{kind}_finetune", workdir / f"finetune_{seed}", start)
        scratch = trained(f"{kind}_scratch", workdir / f"scratch_{seed}", changes)
        pairs.append(Pair(seed, finetuned["top1"], scratch["top1"]))
    # Which motion it is takes more training than a demo has, with and without pre-training.
    compared = kind == "demo"
    return Summary(hog["loss"], hog["loss_of_best_constant"], tuple(pairs), compared)


def recipe(name: str, changes: Mapping[str, Any]) -> Recipe:
    """A recipe of `configs/` with some values changed, by `section.key`."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config.lock()  # an unknown key is an error
    for key, value in changes.items():
        section, _, field = key.rpartition(".")
        (config[section] if section else config)[field] = value
    return config.to_dict()


def last_evaluation(directory: Path) -> dict[str, float]:
    """The last evaluation that a run has recorded."""
    with (directory / "metrics.jsonl").open(encoding="utf-8") as lines:
        entries = [entry for entry in map(json.loads, lines) if "eval/loss" in entry]
    return {k.removeprefix("eval/"): v for k, v in entries[-1].items() if k.startswith("eval/")}


def where_everything_lies(workdir: Path) -> str:
    """Paths for people."""
    pictures = [
        max((workdir / name / "pictures").glob("*.*"), key=lambda path: path.stat().st_mtime)
        for name in ("pretrain", "finetune_0", "scratch_0")
    ]
    return "\n".join(
        [
            f"pictures      {pictures[0]}   input, masked, predicted HOG, wanted HOG",
            *(f"              {path}" for path in pictures[1:]),
            f"checkpoints   {workdir}/*/checkpoints",
            f"TensorBoard   tensorboard --logdir {workdir}",
            f"numbers       {workdir / 'summary.json'}",
        ]
    )


def main() -> int:
    """Runs the demo; 0 if everything was learnt."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--video", action="store_true", help="videos instead of pictures")
    parser.add_argument("--workdir", type=Path, help="runs/demo or runs/demo_video if left out")
    parser.add_argument("--seeds", type=int, help="pairs of classifiers: 3, of videos 1")
    parser.add_argument(
        "--quick", action="store_true", help="seconds; tries the code, not learning"
    )
    options = parser.parse_args()
    kind = "demo_video" if options.video else "demo"
    workdir = options.workdir or Path("runs") / kind
    seeds = (1 if options.video else 3) if options.seeds is None else options.seeds
    if seeds < 1:
        parser.error(f"--seeds={seeds}: at least 1")
    start = time.perf_counter()

    from absl import logging

    from input_pipeline.memory import (
        keep_freed_memory,  # here, so that --help does not wait for JAX
    )
    from maskfeat_jax.commands.exit_codes import EXIT_CODES, exit_code_of
    from maskfeat_jax.commands.train import run_recipe

    keep_freed_memory()
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file it writes
    try:
        summary = train_all(kind, workdir, seeds, options.quick, run_recipe)
    except tuple(EXIT_CODES) as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_code_of(error)
    text = json.dumps(summary.as_dict(), indent=2)
    (workdir / "summary.json").write_text(text + "\n", encoding="utf-8")
    print(f"\n{summary.table()}\n\n{where_everything_lies(workdir)}")
    print(f"took          {(time.perf_counter() - start) / 60:.1f} min")
    for sentence in summary.failures():
        print(sentence)
    return 1 if summary.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
