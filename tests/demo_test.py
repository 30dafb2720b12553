from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import demo
from maskfeat_jax.recipes import load

ROOT = Path(__file__).parents[1]
LEARNT = demo.Summary(0.03, 0.08, (demo.Pair(0, 0.7, 0.5), demo.Pair(1, 0.6, 0.3)))


def pairs(*results: tuple[float, float]) -> dict[str, object]:
    return {"pairs": tuple(demo.Pair(seed, *each) for seed, each in enumerate(results))}


def test_learning_is_no_failure():
    assert LEARNT.failures() == []
    table = LEARNT.table()
    assert "loss 0.0300, best constant 0.0800 (62% below)" in table
    assert re.search(r"seed 1 +60\.0 +30\.0 +30\.0\n", table)
    assert re.search(r"mean +65\.0 ± 7\.1 +40\.0 ± 14\.1 +25\.0 ± 7\.1\n", table)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": 0.07}, "Pre-training failed: the HOG loss 0.0700"),
        ({"loss": float("nan")}, "Pre-training failed"),
        (pairs((0.9, 0.5), (0.59, 0.3)), r"^Seed 1: top-1 fine-tuned is 59.0%, .* 60%\.$"),
        (pairs((0.9, 0.19), (0.9, 0.3)), r"^Seed 0: top-1 from scratch is 19.0%, .* 20%\.$"),
        (pairs((0.9, 0.5), (0.6, 0.51)), r"^Seed 1: .* minus from scratch is 9.0%, .* 10%"),
    ],
)
def test_failure_to_learn_is_reported(changes, words):
    (sentence,) = dataclasses.replace(LEARNT, **changes).failures()
    assert re.search(words, sentence)


def test_nan_is_a_failure():
    assert dataclasses.replace(LEARNT, **pairs((float("nan"), 0.5))).failures()


@pytest.mark.parametrize("kind", ["demo_images", "demo_video"])
def test_recipes_of_the_demo_train_the_same_network_on_the_same_labels(kind):
    pretrain, finetune, scratch = (
        load(f"{kind}:{stage}").to_dict() for stage in ("pretrain", "finetune", "scratch")
    )
    assert finetune["model"] == pretrain["model"]
    assert finetune["data"]["seed"] != pretrain["data"].get("seed", 0)
    for recipe in (finetune, scratch):
        assert recipe["eval_data"].items() >= {"split": "test", "seed": 0}.items()
        del recipe["optim"]
    assert finetune == scratch


def test_videos_from_scratch_may_stay_at_chance():
    summary = dataclasses.replace(LEARNT, pairs=(demo.Pair(0, 0.7, 0.05),), min_scratch=0.0)
    assert summary.failures() == []
    assert len(dataclasses.replace(summary, pairs=(demo.Pair(0, 0.5, 0.05),)).failures()) == 1


def run_demo(workdir: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "demo.py", "--quick", "--seeds=1", f"--workdir={workdir}"]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_demo_runs_and_reports_its_measurements(tmp_path):
    run = run_demo(tmp_path / "demo")
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert run.returncode == (1 if summary["failures"] else 0), run.stderr
    for sentence in summary["failures"]:  # so little training teaches nothing
        assert sentence in run.stdout
    (pair,) = summary["pairs"]
    for name, run_name in (("finetuned", "finetune_0"), ("scratch", "scratch_0")):
        assert pair[name] == demo.last_evaluation(tmp_path / "demo" / run_name)["top1"]
    hog = demo.last_evaluation(tmp_path / "demo" / "pretrain")
    assert (summary["loss"], hog["used"]) == (hog["loss"], 64)
    assert re.search(
        rf"seed 0 +{100 * pair['finetuned']:.1f} +{100 * pair['scratch']:.1f} ", run.stdout
    )
    for path in re.findall(r"\S+\.(?:png|json)\b", run.stdout):
        assert Path(path).is_file(), path

    again = run_demo(tmp_path / "demo")  # nothing left to train
    assert again.returncode == run.returncode, again.stderr
    assert json.loads((tmp_path / "demo" / "summary.json").read_text()) == summary
