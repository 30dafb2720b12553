"""Starts training processes, ends them, starts them again, and keeps what happened."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from bench.faults.results import ROOT

RECIPE = f"--config={ROOT}/bench/faults/recipe.py"
LIMIT_SECONDS = 240.0  # a process that lives so long hangs
ENVIRONMENT = {
    # Programs are compiled once for all processes.
    "JAX_COMPILATION_CACHE_DIR": os.path.join(tempfile.gettempdir(), f"faults-xla-{os.getuid()}"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


def environment(**more: str) -> dict[str, str]:
    """Environment variables of a training process."""
    return {**os.environ, **ENVIRONMENT, **more}


class Point(NamedTuple):
    """A fault point that was reached."""

    time: float
    process: int
    name: str
    count: int


class Ended(NamedTuple):
    """What a process left.

    Attributes:
      code: exit code, minus the signal that ended it, None if it had to be ended by us.
      at: when it ended, by the clock.
      output: what it printed.
      points: fault points that it reached.
      ids: `(step, ids)` of its updates.
      status: STATUS.json, None if there is none.
      left: processes that it left behind.
    """

    code: int | None
    at: float
    output: str
    points: list[Point]
    ids: list[tuple[int, list[int]]]
    status: dict[str, Any] | None
    left: list[int]


class Forks:
    """A process that forks training processes, which saves them their imports.

    Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: queue.Queue[int] = queue.Queue()
        self._codes: dict[int, int] = {}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "bench.faults.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=environment(),
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def start(self, spec: pathlib.Path, output: pathlib.Path) -> int:
        with self._lock:
            assert self._server.stdin is not None
            request = {"spec": str(spec), "output": str(output)}
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            return self._started.get(timeout=120)

    def code(self, process: int) -> int | None:
        return self._codes.get(process)

    def _listen(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            answer = json.loads(line)
            if "started" in answer:
                self._codes.pop(answer["started"], None)  # an earlier process had its number
                self._started.put(answer["started"])
            else:
                self._codes[answer["ended"]] = os.waitstatus_to_exitcode(answer["status"])


class Child:
    """A training process."""

    def __init__(self, case: Case, spec: pathlib.Path, forks: Forks | None, **env: str):
        self._case, self._forks, self._popen = case, forks, None
        self._before = case.output.stat().st_size if case.output.exists() else 0
        if forks is not None:
            self.process = forks.start(spec, case.output)
            return
        with open(case.output, "ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "bench.faults.child", str(spec)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=environment(**env),
                start_new_session=True,
            )
        self.process = self._popen.pid

    def code(self) -> int | None:
        """Exit code, None while it runs."""
        if self._popen is not None:
            return self._popen.poll()
        assert self._forks is not None
        return self._forks.code(self.process)

    def send(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            if self.code() is None:
                os.kill(self.process, number)

    def until(self, seen: Callable[[Child], Any], seconds: float = LIMIT_SECONDS) -> bool:
        """Waits for something; False if the process ended or the time was up before."""
        deadline = time.time() + seconds
        while time.time() < deadline and self.code() is None:
            if seen(self):
                return True
            time.sleep(0.01)
        return False

    def updates(self) -> int:
        return sum(process == self.process for process, _, _ in self._case.updates())

    def wait(self, seconds: float = LIMIT_SECONDS) -> Ended:
        """Waits for the end, which comes by force after some seconds."""
        in_time = not self.until(lambda _: False, seconds) and self.code() is not None
        if not in_time:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process, signal.SIGKILL)
            self.until(lambda _: False, 30)
        at, case = time.time(), self._case
        output = case.output.read_bytes()[self._before :].decode(errors="replace")
        ids = [(step, row) for process, step, row in case.updates() if process == self.process]
        return Ended(
            code=self.code() if in_time else None,
            at=at,
            output=output,
            points=[point for point in case.points() if point.process == self.process],
            ids=ids,
            status=case.status(),
            left=_session(self.process),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A run in a folder of its own.

    Attributes:
      folder: for all its files.
      recipe: a name of bench/faults/recipe.py.
      words: more words for main.py.
      spec: more entries for child.py.
      forks: starts the processes, where nothing else is said.
      directory: work directory; `run` in the folder if None.
    """

    folder: pathlib.Path
    recipe: str = "pretrain"
    words: tuple[str, ...] = ()
    spec: dict[str, Any] = dataclasses.field(default_factory=dict)
    forks: Forks | None = None
    directory: pathlib.Path | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def workdir(self) -> pathlib.Path:
        return self.directory or self.folder / "run"

    @property
    def output(self) -> pathlib.Path:
        return self.folder / "output.txt"

    def start(
        self,
        faults: str = "",
        *,
        words: Sequence[str] = (),
        cold: bool = False,
        env: dict[str, str] | None = None,
        **spec: Any,
    ) -> Child:
        """Starts the command of the run.

        Args:
          faults: a plan for `MASKFEAT_FAULTS`.
          words: more words for main.py.
          cold: start a Python of its own, not a fork.
          env: environment variables; of a fork they come after the imports.
          **spec: more entries for child.py.
        """
        env = {**(env or {}), "MASKFEAT_FAULTS": faults}
        argv = [f"{RECIPE}:{self.recipe}", f"--workdir={self.workdir}", *self.words, *words]
        files = {name: str(self.folder / f"{name}.txt") for name in ("ids", "trace")}
        spec = {"argv": argv, "env": env, **files, **self.spec, **spec}
        path = self.folder / f"spec{len(list(self.folder.glob('spec*.json')))}.json"
        path.write_text(json.dumps(spec))
        return Child(self, path, None if cold else self.forks, **env)

    def run(self, faults: str = "", **options: Any) -> Ended:
        return self.start(faults, **options).wait()

    def updates(self) -> Iterator[tuple[int, int, list[int]]]:
        """Process, step and ids of all updates; a line that a kill cut short does not count."""
        for line in _lines(self.folder / "ids.txt"):
            with contextlib.suppress(ValueError):
                process, step, ids = json.loads(line)
                yield process, step, ids

    def points(self) -> list[Point]:
        rows = (line.split() for line in _lines(self.folder / "trace.txt"))
        return [Point(float(t), int(p), name, int(count)) for t, p, name, count in rows]

    def status(self) -> dict[str, Any] | None:
        path = self.workdir / "STATUS.json"
        return json.loads(path.read_text()) if path.exists() else None


def _lines(path: pathlib.Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _session(leader: int) -> list[int]:
    """Processes of a session that are still there."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = stat.read_text().rpartition(")")[2].split()
            if int(words[3]) == leader and words[0] != "Z":
                found.append(int(stat.parent.name))
    return found
