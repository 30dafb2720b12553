from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time

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


def write_lock(directory, host: str, pid: int) -> None:
    (directory / "lock").write_text(json.dumps({"host": host, "pid": pid}))


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


def test_the_same_recipe_opens_again(tmp_path):
    path = open_workdir(tmp_path / "run", RECIPE)
    (path / "checkpoints").mkdir()
    assert open_workdir(path, json.loads(json.dumps(RECIPE))) == path


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
    assert "log_every_steps" not in message
    assert workdirs.read_recipe(path)["optim"]["lr"] == 1e-3


def test_harmless_keys_may_change_and_are_stored(tmp_path):
    open_workdir(tmp_path, RECIPE, HARMLESS)
    recipe = changed(data={"path": "/data/b"}, run={"log_every_steps": 5})
    open_workdir(tmp_path, recipe, HARMLESS)
    assert workdirs.read_recipe(tmp_path)["data"]["path"] == "/data/b"
    open_workdir(tmp_path, changed(run={"epochs": 1}), ("run", "data"))  # whole sections
    with pytest.raises(RecipeChanged, match=r"data\.paths"):
        open_workdir(tmp_path, changed(data={"paths": 1}), ("run", "data.path"))


def test_recipe_differences_reads_like_the_error():
    new = changed(optim={"lr": 0.5}, data={"size": [224, 224]})  # JSON knows no tuples
    assert workdirs.recipe_differences(RECIPE, new) == ["optim.lr: 0.001 -> 0.5"]


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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WorkdirError, match="not writable"):
        open_workdir(tmp_path / "run", RECIPE)


def test_a_place_where_nothing_can_be_made_is_refused():
    with pytest.raises(WorkdirError, match="not writable"):
        open_workdir("/proc/maskfeat/run", RECIPE)


def test_a_recipe_that_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON serializable"):
        open_workdir(tmp_path / "run", {"data": {"path": tmp_path}})
    assert not (tmp_path / "run").exists()


def test_a_live_run_on_this_host_keeps_its_directory(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        write_lock(tmp_path, socket.gethostname(), process.pid)
        with pytest.raises(WorkdirError, match=f"process {process.pid} on {socket.gethostname()}"):
            open_workdir(tmp_path, RECIPE)
        assert not (tmp_path / "config.json").exists()
    finally:
        process.communicate(b"\n")
    open_workdir(tmp_path, RECIPE)  # the process is dead now
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("text", ['{"host": "elsewhere", "pid": 1}', "", "not json", "[1]"])
def test_a_lock_of_another_host_counts_until_it_has_been_silent(tmp_path, text, monkeypatch):
    lock = tmp_path / "lock"
    lock.write_text(text)
    os.utime(lock, (lock.stat().st_atime, lock.stat().st_mtime - 200))
    open_workdir(tmp_path, RECIPE)
    assert json.loads(lock.read_text())["pid"] == os.getpid()

    monkeypatch.setattr(run_lock, "_LOOK_SECONDS", 0.05)  # one that was alive a moment ago
    monkeypatch.setattr(run_lock, "_SILENT_SECONDS", 0.5)
    lock.write_text(text)
    start = time.monotonic()
    open_workdir(tmp_path, RECIPE)
    assert time.monotonic() - start > 0.4


def test_a_lock_that_is_refreshed_while_we_look_is_in_use(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_lock, "_LOOK_SECONDS", 0.05)
    write_lock(tmp_path, "elsewhere", 7)

    def beat() -> None:
        time.sleep(0.3)
        os.utime(tmp_path / "lock")

    threading.Thread(target=beat).start()
    with pytest.raises(WorkdirError, match=r"in use by process 7 on elsewhere.*delete .*lock"):
        open_workdir(tmp_path, RECIPE)
    assert "process 7 on elsewhere" in capsys.readouterr().err
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("changed", "fate"),
    [
        ({}, "we"),
        ({"pid": 1}, "dead"),  # alive, but started at another time: its number was used again
        ({"pid": 1, "started": ""}, "alive"),
        ({"pid": 2**22 + 1}, "dead"),
        ({"boot": "before"}, "dead"),
        ({"boot": "before", "machine": "another of the same name"}, "unknown"),
        ({"host": "elsewhere"}, "unknown"),
        ({"namespace": "a container"}, "unknown"),
    ],
)
def test_what_is_known_of_the_owner_of_a_lock(changed, fate, monkeypatch):
    monkeypatch.setattr(run_lock, "_text", lambda path: path)
    started = {1: changed.get("started", "5"), os.getpid(): "9"}
    monkeypatch.setattr(run_lock, "_started", lambda pid: started.get(pid, ""))
    owner = {**run_lock._me(), **changed}
    assert run_lock._fate(owner) == fate


RACE = """
import pathlib, sys, time
from maskfeat_jax import run_lock
fate = run_lock._fate
run_lock._fate = lambda owner: (fate(owner), time.sleep(0.3))[0]  # a slow disk
while time.time() < float(sys.argv[2]):
    pass
try:
    run_lock.take(pathlib.Path(sys.argv[1]))
    print("taken", flush=True)
except run_lock.InUse as error:
    print(error, flush=True)
input()
run_lock.release(pathlib.Path(sys.argv[1]))
"""


def test_of_runs_that_find_the_same_stale_lock_at_the_same_moment_one_takes_it(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    write_lock(tmp_path, socket.gethostname(), dead.pid)
    words = [sys.executable, "-c", RACE, str(tmp_path), str(time.time() + 3)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(words, **pipes) for _ in range(3)]
    said = [run.stdout.readline() for run in runs]
    assert sum(line == "taken\n" for line in said) == 1, said
    winner = runs[said.index("taken\n")]
    assert json.loads((tmp_path / "lock").read_text())["pid"] == winner.pid
    assert sum(f"in use by process {winner.pid}" in line for line in said) == 2, said
    for run in runs:
        run.communicate("\n")
    assert os.listdir(tmp_path) == []


def test_closing_releases_only_our_own_lock_from_any_thread(tmp_path):
    open_workdir(tmp_path, RECIPE)
    open_workdir(tmp_path, RECIPE)  # by the same process: allowed
    closing = threading.Thread(target=workdirs.close_workdir, args=(tmp_path,))
    closing.start()
    closing.join()
    assert not (tmp_path / "lock").exists()
    workdirs.close_workdir(tmp_path)
    write_lock(tmp_path, "elsewhere", 1)
    workdirs.close_workdir(tmp_path)
    assert (tmp_path / "lock").exists()


def test_the_lock_is_refreshed_also_after_the_disk_was_away_for_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_BEAT_SECONDS", 0.05)
    open_workdir(tmp_path, RECIPE)
    away = threading.Event()
    utime = os.utime

    def failing(path: os.PathLike[str]) -> None:
        if not away.is_set():
            away.set()
            raise OSError(5, "Input/output error")
        utime(path)

    monkeypatch.setattr(os, "utime", failing)
    assert away.wait(5)
    before = (tmp_path / "lock").stat().st_mtime
    until = time.monotonic() + 5
    while (tmp_path / "lock").stat().st_mtime == before and time.monotonic() < until:
        time.sleep(0.02)
    assert (tmp_path / "lock").stat().st_mtime > before
    workdirs.close_workdir(tmp_path)


def test_a_full_disk_is_told_apart_from_a_wrong_directory(tmp_path, monkeypatch, capsys):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        open_workdir(tmp_path, RECIPE)
    assert os.listdir(tmp_path) == []
    workdirs.write_status(tmp_path, "failed", exit_code=74)  # must not hide what went wrong
    workdirs.write_table(tmp_path / "per_class.csv", [{"class": "a"}])
    told = capsys.readouterr().err
    assert "STATUS.json could not be written" in told
    assert "per_class.csv could not be written" in told


def test_status_is_written_in_one_piece(tmp_path):
    workdirs.write_status(tmp_path, "running", step=0)
    facts = {"step": 7, "reason": "not finite", "loss": float("nan"), "where": tmp_path}
    workdirs.write_status(tmp_path, "failed", **facts)
    status = json.loads((tmp_path / "STATUS.json").read_text())
    assert status.items() >= {"state": "failed", "step": 7, "reason": "not finite"}.items()
    assert (status["loss"], status["where"]) == ("nan", str(tmp_path))
    assert os.listdir(tmp_path) == ["STATUS.json"]
