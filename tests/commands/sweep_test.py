"""A sweep: which runs it has, in which order they start, what is made of their ends."""

from __future__ import annotations

import copy
import csv
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from PIL import Image

from maskfeat_jax.commands import sweep as module
from maskfeat_jax.commands import sweep_results
from maskfeat_jax.commands.options import UsageError
from maskfeat_jax.commands.sweep import share_of, sweep
from maskfeat_jax.commands.sweep_plan import plan
from maskfeat_jax.commands.sweep_results import Cell
from maskfeat_jax.distributed.preemption import Signals, Stopped
from maskfeat_jax.recipes import load
from maskfeat_jax.sections import RecipeError
from tests.recipes import ROOT

DEMO = "configs/demo_images.py"
SWEEP = {
    "seeds": 2,
    "stages": {
        "finetune": {"config": f"{DEMO}:finetune", "init_from": "pretrain"},
        "pretrain": {"config": f"{DEMO}:pretrain", "seeds": 1},
    },
    "rows": [
        {"name": "none", "pretrain": None},
        {"name": "pixels", "pretrain": {"target": {"name": "pixels"}}},
    ],
}
# In place of main.py: its result depends on the seed, and it fails as files beside it say.
PROGRAM = """
import json, pathlib, runpy, signal, sys, time, types
sys.modules["ml_collections"] = types.SimpleNamespace(ConfigDict=dict)
recipe, workdir = (pathlib.Path(word.partition("=")[2]) for word in sys.argv[1:])
recipe = runpy.run_path(recipe)["get_config"]()
here = pathlib.Path(__file__).parent
with (here / "started").open("a") as file:
    file.write(f"{workdir.parent.name}/{workdir.name}\\n")
if start := recipe["model"].get("init_from"):
    assert json.loads((pathlib.Path(start) / "STATUS.json").read_text())["state"] == "finished"
workdir.mkdir(exist_ok=True)
def stop(*_):
    (workdir / "saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
if (here / "slow").exists():
    (here / "slow").unlink()
    time.sleep(60)
if (here / f"fail_{workdir.name}").exists():
    print("what was before\\nerror: a\\nb", file=sys.stderr)
    sys.exit(78)
status = {"state": "finished", "top1": 0.5 + recipe["seed"] / 10, "loss": 0.25}
(workdir / "STATUS.json").write_text(json.dumps(status))
"""


@pytest.fixture
def signals():
    made = Signals(exit_process=lambda code: None)
    yield made
    made.restore()


@pytest.fixture
def figures(monkeypatch):
    """Columns of figures, in place of drawing them."""
    drawn = []

    def draw(path, rows, cells):
        path.touch()
        drawn.append((rows, cells))

    monkeypatch.setattr(sweep_results, "draw", draw)
    return drawn


@pytest.fixture
def start(tmp_path, signals, figures):
    """Starts a sweep in `runs`; the names of what it started, the exit code and its report."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def started(recipe=SWEEP, share=0, shares=1, report=None):
        (tmp_path / "started").write_text("")
        said = []
        workdir = tmp_path / "runs"
        workdir.mkdir(exist_ok=True)
        runs = plan(recipe, workdir)
        command = (sys.executable, "-I", "-S", str(program))
        code = sweep(runs, workdir, command, signals, share, shares, report or said.append)
        return (tmp_path / "started").read_text().split(), code, said

    return started


def changed(**keys):
    return {**copy.deepcopy(SWEEP), **keys}


def test_rows_go_through_stages_with_seeds(tmp_path):
    recipe = changed(
        common={"view": {"size": 16}, "eval_view": {"resize": 16}},
        rows=[
            {"name": "none", "pretrain": None, "finetune": {"config": f"{DEMO}:scratch"}},
            {"name": "hog", "pretrain": {"target": {"name": "hog", "bins": 6}}},
            {"name": "cell", "pretrain": {"mask": {"ratio": 0.3}}},
        ],
    )
    recipe["stages"]["finetune"]["seeds"] = 3
    recipe["stages"]["pretrain"].update(seeds=2, changes={"run": {"epochs": 3.0}})
    runs = {run.name: run for run in plan(recipe, tmp_path)}
    tuned = [f"finetune_{seed}" for seed in range(3)]
    names = [f"none/{name}" for name in tuned]
    for row in ("hog", "cell"):
        names += [f"{row}/{name}" for name in ["pretrain_0", "pretrain_1", *tuned]]
    assert list(runs) == names
    assert runs["none/finetune_1"].recipe["optim"]["lr"] == 1e-3
    assert "init_from" not in runs["none/finetune_1"].recipe["model"]
    assert runs["hog/pretrain_1"].recipe["target"] == {"name": "hog", "bins": 6}
    changed_mask = runs["cell/pretrain_1"].recipe
    assert changed_mask["mask"] == {"name": "random", "ratio": 0.3}
    assert (changed_mask["run"]["epochs"], changed_mask["run"]["batch_size"]) == (3.0, 64)
    for run in runs.values():
        assert run.workdir == tmp_path / run.name
        assert run.recipe["seed"] == run.seed
        assert run.recipe["view"] == {"size": 16, "crop_area": (0.8, 1.0)}
    third = runs["hog/finetune_2"]
    assert third.needs == (tmp_path / "hog" / "pretrain_0",)
    assert third.recipe["model"]["init_from"] == str(third.needs[0])
    assert (third.metrics, runs["hog/pretrain_0"].metrics) == (("top1",), ("loss",))


def row(**stages):
    return [{"name": "a", **stages}]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rowz": []}, r"config\.rowz: no such key; did you mean 'rows'"),
        ({"seeds": 0}, r"seeds=0 must be 1 or more"),
        ({"rows": []}, "stages and rows must not be empty"),
        (
            {"stages": {"a": {"confg": "smoke"}}},
            r"stages\.a\.confg: no such key; did you mean 'con",
        ),
        ({"stages": {"a/b": {"config": "smoke"}}}, "stages: 'a/b' names a directory"),
        (
            {"stages": {"a": {"config": "smoke", "init_from": "b"}}},
            r"stages\.a\.init_from='b' does not exist; choices: a",
        ),
        ({"rows": [{"pretrain": {}}]}, r"rows: {'pretrain': {}} has no name"),
        ({"rows": row() * 2}, "there are two of the name 'a'"),
        ({"rows": row(tune={})}, r"rows\.a\.tune: no such stage; did you mean .finetune"),
        ({"rows": row(pretrain=3)}, r"rows\.a\.pretrain=3: expected sections, or None"),
        ({"rows": row(pretrain={"config": "smok"})}, r"rows\.a\.pretrain: smok does not exist"),
        ({"rows": row(pretrain={"config": "smoke:b"})}, "smoke has no sizes"),
        ({"rows": row(pretrain={"config": 3})}, r"rows\.a\.pretrain\.config=3: expected the name"),
        ({"rows": row(pretrain={"seed": 9})}, r"rows\.a\.pretrain\.seed: each run has its own"),
        (
            {"rows": row(pretrain={"target": {"cel": 4}})},
            r"rows\.a\.pretrain: target\.cel: no such key; did you mean 'cell'",
        ),
        ({"rows": row(pretrain={"taget": {}})}, r"taget: no such section .*'target'"),
        ({"rows": row(pretrain={"data": {"num_exampels": 3}})}, r"data\.num_exampels: no such key"),
        ({"rows": row(pretrain={"eval_data": {"name": "x"}})}, r"eval_data\.name='x' does not"),
        ({"rows": row(finetune={"mesh": {"tensr": 2}})}, r"mesh\.tensr: no such key"),
        (
            {"rows": row(finetune={"model": {"init_from": "{b/pretrain}"}}, pretrain=None)},
            r"rows\.a\.finetune\.model\.init_from='{b/pretrain}': there is no row 'b'",
        ),
        (
            {"rows": row(finetune={"model": {"init_from": "{a/pretrain}"}}, pretrain=None)},
            "the row 'a' has no stage 'pretrain'; choices: finetune",
        ),
        (
            {"rows": row(pretrain={"model": {"init_from": "{a/finetune}"}})},
            "these wait for each other: a/pretrain_0 needs a/finetune_0 needs a/pretrain_0",
        ),
        (
            {"rows": row(finetune={"model": {"init_from": "no/such"}}, pretrain=None)},
            r"model\.init_from='no/such': no such file",
        ),
        (
            {
                "common": {"data": {"path": "x"}},
                "rows": row(finetune={"config": "linear_mae_vit_in1k"}, pretrain=None),
            },
            r"rows\.a\.finetune: model\.init_from: missing",
        ),
    ],
)
def test_a_wrong_sweep_is_refused_before_any_run(keys, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        plan(changed(**keys), tmp_path)


def test_runs_start_once_and_make_a_table(start, figures, tmp_path):
    features = {"name": "features", "pretrain": {"model": {"init_from": "{hog/pretrain}"}}}
    recipe = changed(rows=[SWEEP["rows"][0], features, {"name": "hog"}])
    started, code, said = start(recipe)
    tuned = ["finetune_0", "finetune_1"]
    assert started == [
        *(f"none/{name}" for name in tuned),
        *(f"hog/{name}" for name in ["pretrain_0"]),
        *(f"features/{name}" for name in ["pretrain_0", *tuned]),
        *(f"hog/{name}" for name in tuned),
    ]
    assert code == 0
    assert "hog/finetune_1: top1 60.0" in said
    assert (tmp_path / "runs" / "table.md").read_text() == (
        "|  | pretrain loss | finetune top1, % |\n"
        "| --- | --- | --- |\n"
        "| none |  | 55.0 ± 7.1 (2) |\n"
        "| features | 0.25 (1) | 55.0 ± 7.1 (2) |\n"
        "| hog | 0.25 (1) | 55.0 ± 7.1 (2) |\n"
        "\nMean ± standard deviation over seeds, and in brackets their number.\n"
    )
    lines = list(csv.DictReader((tmp_path / "runs" / "table.csv").open()))
    assert len(lines) == 8
    last = {"row": "hog", "stage": "finetune", "seed": "1", "state": "complete"}
    assert lines[-1] == {**last, "top1": "0.6", "loss": ""}
    assert len(figures) == 9  # at the start, and after each run
    rows, cells = figures[-1]
    assert rows == ["none", "features", "hog"]
    assert list(cells) == [("pretrain", "loss"), ("finetune", "top1")]
    assert start(recipe)[:2] == ([], 0)


def test_a_figure_has_a_panel_for_each_metric(tmp_path):
    column = {"a": Cell([0.5, 0.6], 1, 0), "b": Cell([], 0, 3), "c": Cell([math.nan], 0, 0)}
    sizes = []
    for panels in (1, 2):
        cells = {("finetune", f"top{k}"): column for k in range(panels)}
        sweep_results.draw(tmp_path / "a.png", list("abc"), cells)
        picture = Image.open(tmp_path / "a.png").convert("L")
        assert picture.getextrema()[1] == 255
        assert picture.getextrema()[0] < 50
        sizes.append(picture.size)
    assert sizes[1][0] > sizes[0][0]


def test_a_failure_leaves_the_others(start, tmp_path):
    (tmp_path / "fail_pretrain_0").touch()
    started, code, said = start()
    assert (started, code) == (["none/finetune_0", "none/finetune_1", "pixels/pretrain_0"], 1)
    assert "pixels/pretrain_0: failed, exit code 78: error: a b" in said
    table = (tmp_path / "runs" / "table.md").read_text()
    assert "| none |  | 55.0 ± 7.1 (2) |\n| pixels | 1 failed | 2 failed |\n" in table
    path = tmp_path / "runs" / "pixels" / "pretrain_0"
    assert f"- pixels/finetune_1: failed, left out, since {path} has failed\n" in table
    (tmp_path / "fail_pretrain_0").unlink()
    (tmp_path / "fail_finetune_1").touch()
    started, code, _ = start()
    names = ["pretrain_0", "finetune_0", "finetune_1"]
    assert (started, code) == ([f"pixels/{name}" for name in names], 1)
    table = (tmp_path / "runs" / "table.md").read_text()
    assert "| pixels | 0.25 (1) | 50.0 (1, 1 failed) |\n" in table


def test_another_recipe_starts_the_run_which_says_so(start, tmp_path):
    start()
    recipe = changed()
    recipe["stages"]["finetune"]["changes"] = {
        "input": {"workers": 1},
        "run": {"keep_checkpoints": 1},
    }
    assert start(recipe)[0] == []  # may change in a run
    recipe["stages"]["finetune"]["changes"] = {"optim": {"lr": 1e-4}}
    assert start(recipe)[0] == [f"{row}/finetune_{k}" for row in ("none", "pixels") for k in (0, 1)]


def test_a_metric_that_does_not_exist_is_a_failure(start):
    recipe = changed()
    recipe["stages"]["pretrain"]["metrics"] = ("los",)
    _, code, said = start(recipe)
    assert code == 1
    reason = "metrics: los is not in its results; there are loss, top1"
    assert f"pixels/pretrain_0: failed, {reason}" in said


def test_a_signal_stops_the_run_and_then_the_sweep(start, tmp_path):
    (tmp_path / "slow").touch()

    def interrupt():
        while (tmp_path / "slow").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Stopped, match="passed on to none/finetune_0, which ended with code 75"):
        start()
    thread.join()
    assert (tmp_path / "runs" / "none" / "finetune_0" / "saved").exists()
    assert (tmp_path / "started").read_text().split() == ["none/finetune_0"]


def test_a_share_waits_for_the_others(start, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.0)
    teacher = {"model": {"init_from": "{hog/pretrain}"}}
    recipe = changed(rows=[{"name": "hog"}, {"name": "features", "pretrain": teacher}])
    said = []

    def report(line):
        said.append(line)
        if line.startswith("waiting for"):
            start(recipe, share=0, shares=2)

    started, code, _ = start(recipe, share=1, shares=2, report=report)
    assert (
        said[1] == f"waiting for {tmp_path / 'runs' / 'hog' / 'pretrain_0'}, a run of another share"
    )
    names = ["pretrain_0", "finetune_0", "finetune_1"]
    assert (started, code) == ([f"{row}/{x}" for row in ("hog", "features") for x in names], 0)
    assert "| features | 0.25 (1) | 55.0 ± 7.1 (2) |" in (tmp_path / "runs/table.md").read_text()


def test_shares_are_those_of_the_flag_or_of_slurm():
    task = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "2"}
    assert share_of(None, {}) == (0, 1)
    assert share_of(None, task) == (1, 2)
    assert share_of("2/8", task) == (1, 8)
    for wrong in ("0/8", "9/8", "2", "a/b"):
        with pytest.raises(UsageError, match=f"--share={wrong}: expected 1/8 to 8/8"):
            share_of(wrong, {})
    with pytest.raises(UsageError, match="must be numbered without gaps"):
        share_of(None, {**task, "SLURM_ARRAY_TASK_ID": "6"})


def names_of_sweeps():
    for path in sorted((ROOT / "configs" / "sweeps").glob("*.py")):
        module = importlib.import_module(f"maskfeat_jax.configs.sweeps.{path.stem}")
        yield from (f"sweeps/{path.stem}:{table}" for table in getattr(module, "TABLES", ()))
        if not hasattr(module, "TABLES"):
            yield f"sweeps/{path.stem}"


@pytest.mark.parametrize("name", names_of_sweeps())
def test_the_sweeps_of_the_package_have_no_mistakes(name, tmp_path):
    recipe = load(name).to_dict()
    recipe.setdefault("common", {} if "demo" in name else {"data": {"path": "/data"}})
    with_teacher = [row for row in recipe["rows"] if "teachers/" in str(row)]
    if with_teacher:
        with pytest.raises(RecipeError) as raised:
            plan({**recipe, "rows": with_teacher}, tmp_path)
        lines = str(raised.value).splitlines()[len(with_teacher) > 1 :]
        assert all("teachers/" in line for line in lines)
        assert len(lines) == len(with_teacher)
    rows = [row for row in recipe["rows"] if row not in with_teacher]
    runs = plan({**recipe, "rows": rows}, tmp_path)
    assert len({run.name for run in runs}) == len(runs) > 3
    recipes = [str(run.recipe) for run in runs if run.stage == "pretrain"]
    assert len({*recipes}) == len(recipes), "two rows are the same"


# One row of a few small runs.
TINY = """
from maskfeat_jax.configs.sweeps import demo

def get_config():
    config = demo.get_config()
    config.seeds, config.rows = 1, [dict(name="hog")]
    config.common = dict(data=dict(num_examples=64), eval_data=dict(num_examples=64))
    config.common.model = dict(depth=1, width=32)
    for stage in config.stages.values():
        stage.changes.run.update(epochs=60.0, batch_size=32, log_every_steps=1)
        stage.changes.run.checkpoint_every_epochs = 10.0
    return config
"""


@pytest.mark.slow
def test_a_sweep_that_is_killed_and_stopped_ends_with_the_same_table(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)

    def begin(name):
        words = ["sweep", f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / name}"]
        return subprocess.Popen([sys.executable, "main.py", *words], cwd=ROOT)

    def training(run):
        """Waits until it is after its first checkpoint."""
        metrics = tmp_path / "killed" / run / "metrics.jsonl"
        while not metrics.exists() or metrics.read_text().count("\n") < 30:
            time.sleep(0.02)

    assert begin("whole").wait() == 0
    sweep = begin("killed")
    training("hog/pretrain_0")
    owner = (tmp_path / "killed" / "hog" / "pretrain_0" / "lock").read_text()
    sweep.kill()
    os.kill(int(owner.split()[1]), signal.SIGKILL)
    assert sweep.wait() == -signal.SIGKILL
    sweep = begin("killed")
    training("hog/finetune_0")
    sweep.terminate()
    assert sweep.wait() == 75
    status = json.loads((tmp_path / "killed" / "hog" / "finetune_0" / "STATUS.json").read_text())
    assert status["state"] == "stopped"
    assert begin("killed").wait() == 0
    for name in ("table.csv", "table.md"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    log = (tmp_path / "killed" / "hog" / "finetune_0.log").read_text()
    assert "resuming from step" in log
