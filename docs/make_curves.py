"""Draws the losses of pre-trainings by epoch, each divided by the loss of its best constant.

The picture of docs/experiments.md:
python docs/make_curves.py runs/cifar10/*/pretrain_0 --out=docs/pictures/cifar10_curves.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure


def curve(workdir: Path) -> tuple[list[float], list[float]]:
    """Epochs, and the training loss relative to the best constant on the held-out examples."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    constant = next(x for line in lines if (x := line.get("eval/loss_of_best_constant")))
    points = [line for line in lines if "train/loss" in line]
    return [p["epoch"] for p in points], [p["train/loss"] / constant for p in points]


def main() -> None:
    """Draws one line for each work directory, named by the folder that holds it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    flags = parser.parse_args()
    figure = Figure(figsize=(8, 4), layout="constrained")
    panel = figure.subplots()
    for workdir in flags.workdirs:
        panel.plot(*curve(workdir), label=workdir.resolve().parent.name)
    panel.set(xlabel="epoch", ylabel="loss / loss of the best constant", ylim=(None, 1.02))
    panel.grid(color="0.9")
    figure.legend(loc="outside right upper")
    figure.savefig(flags.out, dpi=120)


if __name__ == "__main__":
    main()
