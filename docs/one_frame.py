"""Top-1 of the video demo on its test videos, as they are and with their first frame repeated.

The class of these videos is an outline and a direction, of which one frame shows the first:
python docs/one_frame.py runs/demo_video/finetune_0
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import jax
import numpy as np

import maskfeat_jax as mf
from maskfeat_jax.training.experiment import Experiment


def top1(experiment: Experiment, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Share of the test videos whose class, outline and direction are found, of changed clips."""
    assert experiment.testing is not None
    names = [name.rsplit("_", 1) for name in experiment.testing.source.class_names or ()]
    state, show = experiment.init(), jax.jit(experiment.task.show_step)
    found = []
    for batch in experiment.testing.eval_batches("fail"):
        rows = {"video": change(np.asarray(batch["video"]))}
        best = np.asarray(show(state, rows)["probabilities"]).argmax(-1)
        pairs = zip(best, batch["label"], batch["valid"], strict=True)
        found += [
            (names[i] == names[j], names[i][0] == names[j][0], names[i][1] == names[j][1])
            for i, j, valid in pairs
            if valid
        ]
    return np.mean(found, 0)


def main() -> None:
    """Prints both."""
    changes = {"task": "evaluate", "model.init_from": sys.argv[1]}
    experiment = mf.build("configs/demo_video.py:finetune", changes)
    for title, change in (
        ("clips", lambda video: video),
        ("first frame repeated", lambda video: video[:, :1].repeat(video.shape[1], 1)),
    ):
        both, outline, direction = top1(experiment, change)
        print(f"{title}: top-1 {both:.1%}, outline {outline:.1%}, direction {direction:.1%}")


if __name__ == "__main__":
    main()
