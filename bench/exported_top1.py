"""Exports a fine-tuned image classifier to timm and compares the top-1 accuracy there and here.

    python -m bench.exported_top1 runs/demo/finetune_0

timm itself loads the folder, strictly, as `local-dir:`. Both models get the same pixels: those of
the evaluation data of the run, prepared by its `eval_view`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

import input_pipeline
from bench.originals import make_importable
from maskfeat_jax import convert, steps
from maskfeat_jax.sections import call, choose


def compare(run: Path, batch_size: int = 250) -> dict[str, Any]:
    """Top-1 of a run here and in timm, on the evaluation data of the run."""
    make_importable("timm")
    import timm
    import torch

    trained = convert.load(run)
    forward = jax.jit(lambda clips: steps.forward(trained.model, trained.params, clips))
    hits = {"examples": 0, "ours": 0, "timm": 0, "same": 0}
    furthest = 0.0
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        convert.write(trained, folder, "timm")
        # `pretrained` loads the weights of the folder, not timm's own.
        peer = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        for batch in _batches(trained, batch_size):
            rows = np.asarray(batch["valid"])
            clips = np.asarray(trained.normalise(batch["video"]))
            ours = np.asarray(forward(clips))[rows]
            images = torch.from_numpy(clips[:, 0].transpose(0, 3, 1, 2).copy())
            theirs = peer(images).numpy()[rows]
            label = np.asarray(batch["label"])[rows]
            best = ours.argmax(1), theirs.argmax(1)
            hits["examples"] += len(label)
            hits["ours"] += int((best[0] == label).sum())
            hits["timm"] += int((best[1] == label).sum())
            hits["same"] += int((best[0] == best[1]).sum())
            furthest = max(furthest, float(abs(ours - theirs).max()))
    return {**hits, "largest_difference_of_logits": furthest, "timm_version": timm.__version__}


def _batches(trained: convert.Pretrained, batch_size: int) -> Any:
    recipe = trained.recipe
    source = choose("eval_data", input_pipeline.DATASETS, recipe["eval_data"])
    view = call("eval_view", input_pipeline.EvalView, recipe["eval_view"])
    loader = input_pipeline.Loader(
        source, view, batch_size=batch_size, seed=0, process_index=0, process_count=1
    )
    return loader.eval_batches("fail")


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="work directory of a fine-tuning on images")
    print(json.dumps(compare(parser.parse_args().run), indent=2))


if __name__ == "__main__":
    main()
