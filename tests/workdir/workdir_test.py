from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pathlib

import pytest

from maskfeat_jax.workdir import lock as run_lock
from maskfeat_jax.workdir import workdir as workdirs
from maskfeat_jax.workdir.workdir import RecipeChanged, StorageError, WorkdirError, open_workdir

RECIPE = {
    "seed": 0,
    "data": {"path": "/data/a", "size": (224, 224)},
    "optim": {"lr": 1e-3, "schedule": {"name": "cosine"}},
    "run": {"log_every_steps": 50, "epochs": 300},
}
HARMLESS = ("run.log_every_steps", "data.path")


def changed(**sections: dict) -> dict:
    return {**RECIPE, **{name: {**RECIPE[name], **new} for name, new in sections.items()}}


def test_a_new_directory_gets_the_recipe_and_the_environment(tmp_path):
    path = open_workdir(tmp_path / "deep" / "run", RECIPE)
    assert path.is_absolute()
    assert workdirs.read_recipe(path) == json.loads(json.dumps(RECIPE))
    text = (path / "config.json").read_text()
    assert text.index('"data"') < text.index('"optim"') < text.index('"seed"')
    environment = json.loads((path / "environment.json").read_text())
    assert environment.keys() >= {
        *("python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
        *("backend", "device_kind", "device_count", "git_commit"),
    }


def test_a_changed_recipe_is_refused_with_each_difference(tmp_path):
    path = open_workdir(tmp_path, RECIPE, HARMLESS)
    recipe = changed(optim={"lr": 2e-3, "schedule": {}}, run={"log_every_steps": 5, "warmup": 3})
    with pytest.raises(RecipeChanged) as caught:
        open_workdir(path, recipe, HARMLESS)
    message = str(caught.value)
    assert "\n  optim.lr: 0.001 -> 0.002\n" in message
    assert "\n  optim.schedule: (absent) -> {}\n" in message
    assert '\n  optim.schedule.name: "cosine" -> (absent)\n' in message
    assert "\n  run.warmup: (absent) -> 3\n" in message
    assert "log_every_steps: " not in message
    assert "--config.model.init_from=" in message
    assert message.endswith("Keys that may change in a run: run.log_every_steps, data.path.")
    assert workdirs.read_recipe(path)["optim"]["lr"] == 1e-3


def test_harmless_keys_may_change_and_are_stored(tmp_path):
    open_workdir(tmp_path, RECIPE, HARMLESS)
    recipe = changed(data={"path": "/data/b"}, run={"log_every_steps": 5})
    open_workdir(tmp_path, recipe, HARMLESS)
    assert workdirs.read_recipe(tmp_path)["data"]["path"] == "/data/b"
    open_workdir(tmp_path, changed(run={"epochs": 1}), ("run", "data"))  # whole sections
    with pytest.raises(RecipeChanged, match=r"data\.paths"):
        open_workdir(tmp_path, changed(data={"paths": 1}), ("run", "data.path"))


def test_a_foreign_directory_a_file_and_a_damaged_recipe_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(WorkdirError, match=r"thesis\.tex"):
        open_workdir(tmp_path, RECIPE)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    with pytest.raises(WorkdirError, match="is a file"):
        open_workdir(tmp_path / "thesis.tex", RECIPE)
    run = open_workdir(tmp_path / "run", RECIPE)
    (run / "config.json").write_text('{"seed":')
    with pytest.raises(WorkdirError, match=r"config\.json is damaged"):
        open_workdir(run, RECIPE)
    with pytest.raises(WorkdirError, match="not a work directory"):
        workdirs.read_recipe(tmp_path)


def test_a_place_where_nothing_can_be_made_is_refused():
    with pytest.raises(WorkdirError, match="not writable"):
        open_workdir("/proc/maskfeat/run", RECIPE)


def test_a_name_that_checkpoints_cannot_have_is_refused_at_once(tmp_path):
    with pytest.raises(WorkdirError, match="the name is not UTF-8, as checkpoints need it"):
        open_workdir(tmp_path / os.fsdecode(b"caf\xe9"), RECIPE)
    assert not list(tmp_path.iterdir())


def test_a_table_holds_names_of_any_bytes(tmp_path):
    names = [os.fsdecode(b"caf\xe9"), "a\u2028b\u0085", "two\nlines", "two\rlines", 'say "x", y']
    workdirs.write_table(tmp_path / "per_class.csv", [{"class": n, "top1": 1.0} for n in names])
    data = (tmp_path / "per_class.csv").read_bytes()
    assert data.startswith(b"class,top1\ncaf\xe9,1.0\n")
    rows = csv.DictReader(io.StringIO(os.fsdecode(data), newline=""))
    assert [row["class"] for row in rows] == names


def test_lines_are_written_as_they_come_and_replace_the_file_at_the_end(tmp_path):
    path = tmp_path / "detections.csv"
    path.write_text("old")

    def lines():
        yield os.fsdecode(b"caf\xe9,1\n")
        assert path.read_text() == "old"
        yield "b,2\n"

    workdirs.write_text(path, lines())
    assert path.read_bytes() == b"caf\xe9,1\nb,2\n"
    assert os.listdir(tmp_path) == ["detections.csv"]


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://bucket", pathlib.Path("file:///run")])
def test_a_url_is_refused_and_the_home_is_expanded(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is a URL; expected a path of the file system"):
        open_workdir(url, RECIPE)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_workdir("~/run", RECIPE) == tmp_path / "run"


def test_a_recipe_that_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON serializable"):
        open_workdir(tmp_path / "run", {"data": {"path": tmp_path}})
    assert not (tmp_path / "run").exists()


def test_a_directory_in_use_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    def in_use(directory):
        raise run_lock.InUse("in use by process 7 on elsewhere")

    monkeypatch.setattr(run_lock, "take", in_use)
    with pytest.raises(WorkdirError, match="in use by process 7 on elsewhere"):
        open_workdir(tmp_path, RECIPE)
    assert os.listdir(tmp_path) == []


def test_closing_releases_the_lock(tmp_path):
    open_workdir(tmp_path, RECIPE)
    open_workdir(tmp_path, RECIPE)  # by the same process: allowed
    with open(tmp_path / "lock") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        workdirs.close_workdir(tmp_path)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_full_disk_is_distinguished_from_a_wrong_directory(tmp_path, monkeypatch, capsys):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        open_workdir(tmp_path, RECIPE)
    assert os.listdir(tmp_path) == ["lock"]
    workdirs.write_status(tmp_path, "failed", exit_code=74)  # must not hide what went wrong
    workdirs.write_table(tmp_path / "per_class.csv", [{"class": "a"}])
    printed = capsys.readouterr().err
    assert "STATUS.json could not be written" in printed
    assert "per_class.csv could not be written" in printed


def test_status_is_written_in_one_piece(tmp_path):
    workdirs.write_status(tmp_path, "running", step=0)
    facts = {"step": 7, "reason": "not finite", "loss": float("nan"), "where": tmp_path}
    workdirs.write_status(tmp_path, "failed", **facts)
    status = json.loads((tmp_path / "STATUS.json").read_text())
    assert status.items() >= {"state": "failed", "step": 7, "reason": "not finite"}.items()
    assert (status["loss"], status["where"]) == ("nan", str(tmp_path))
    assert os.listdir(tmp_path) == ["STATUS.json"]
