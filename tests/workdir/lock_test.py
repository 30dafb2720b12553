from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from maskfeat_jax.workdir.lock import InUse, release, take
from tests.recipes import ROOT

TAKE = """
import pathlib, sys, time
from maskfeat_jax.workdir.lock import InUse, take
while time.time() < float(sys.argv[2]):
    pass
try:
    take(pathlib.Path(sys.argv[1]))
    print("taken", flush=True)
except InUse as error:
    print(error, flush=True)
input()
"""


def another(directory: pathlib.Path, at: float = 0.0) -> subprocess.Popen[str]:
    """A process that takes the lock at some time and keeps it until its input is closed."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", TAKE, str(directory), str(at)]
    return subprocess.Popen(command, cwd=ROOT, **pipes)


def test_a_run_keeps_its_directory_until_its_process_is_killed(tmp_path):
    other = another(tmp_path)
    assert other.stdout.readline() == "taken\n"
    with pytest.raises(InUse) as caught:
        take(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is in use by process {other.pid} on {socket.gethostname()}; "
        "stop that run first"
    )
    other.kill()
    other.communicate()
    take(tmp_path)
    words = f"process {os.getpid()} on {socket.gethostname()}\n"
    assert (tmp_path / "lock").read_text() == words
    release(tmp_path)


def test_of_runs_that_start_at_the_same_moment_one_takes_it(tmp_path):
    (tmp_path / "lock").write_text("process 7 on elsewhere")  # of a run that is over
    runs = [another(tmp_path, time.time() + 1.5) for _ in range(3)]
    said = [run.stdout.readline() for run in runs]
    assert sum(line == "taken\n" for line in said) == 1, said
    assert sum("stop that run first" in line for line in said) == 2, said
    for run in runs:
        run.communicate("\n")


def test_a_process_may_take_it_twice_and_release_it_from_any_thread(tmp_path):
    take(tmp_path)
    take(tmp_path)
    releasing = threading.Thread(target=release, args=(tmp_path,))
    releasing.start()
    releasing.join()
    release(tmp_path)
    with open(tmp_path / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # free


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_where_nothing_can_be_locked_there_is_a_warning(tmp_path, monkeypatch, capsys, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    take(tmp_path)
    release(tmp_path)
    warning = capsys.readouterr().err
    assert f"{tmp_path}/lock cannot be locked ({os.strerror(code)})" in warning
