"""Reports the progress of a run: log, progress bar, JSON lines, TensorBoard, pictures.

Nothing here stops a run: a full disk, a closed terminal or a missing package only causes a
warning.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import math
import pathlib
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import UInt8

from maskfeat_jax.files import write_atomically
from maskfeat_jax.pictures import encode
from maskfeat_jax.workdir.sinks import Console, Stream, TensorBoard

Number = int | float | np.floating  # types of a metric

_WARN_SECONDS = 60.0
_LISTED_NONFINITE = 10


class Report:
    """Progress of one run. Only process 0 writes; in the others every method does nothing.

    Each log interval is one `train` call.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        total_steps: int,
        steps_per_epoch: Number,
        devices: int,
        clips_per_step: int,
        resume_step: int = 0,
        stream: Stream | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """Opens the files; removes metrics of an interrupted run after `resume_step`.

        Args:
          workdir: the work directory; it exists.
          total_steps: of the whole run.
          steps_per_epoch: may be a fraction.
          devices: of all processes.
          clips_per_step: of all devices.
          resume_step: steps that were made before.
          stream: gets the progress; standard output if None. With a bar if it is a terminal.
          clock: returns seconds, to limit the rate of warnings; replaced in tests.
        """
        self._workdir = workdir
        self._total_steps = total_steps
        self._steps_per_epoch = float(steps_per_epoch)
        self._devices = devices
        self._clips_per_step = clips_per_step
        self._clock = clock
        self._step_s: collections.deque[float] = collections.deque(maxlen=10)
        self._failed: dict[str, _Failures] = {}
        self._nonfinite = 0
        self._active = jax.process_index() == 0
        self._console = Console(sys.stdout if stream is None else stream)
        self._tensorboard: TensorBoard | None = None
        if not self._active:
            return
        with self._tolerating("metrics.jsonl"):
            _drop_after(workdir / "metrics.jsonl", resume_step)
        with self._tolerating("TensorBoard"):
            self._tensorboard = TensorBoard(workdir, resume_step)
        if resume_step:
            self.message(f"resuming from step {resume_step}")
        self._console.open_bar(total_steps, resume_step)

    def __enter__(self) -> Report:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()

    def train(
        self,
        step: int,
        steps: int,
        metrics: Mapping[str, Number],
        interval_s: Number,
        input_wait_s: Number,
        usage: Mapping[str, Number] | None = None,
    ) -> None:
        """Reports a log interval.

        Args:
          step: updates made so far.
          steps: updates in the interval.
          metrics: means over the interval, such as `loss`, `lr`, `grad_norm`.
          interval_s: seconds of the interval, those of evaluation and saving left out.
          input_wait_s: seconds of the interval spent waiting for the next batch.
          usage: of the devices, what is known of `mfu`, `device_gib` and `device_peak_gib`.
        """
        if not self._active:
            return
        interval_s = float(interval_s)
        self._step_s.append(interval_s / steps)
        speed = self._clips_per_step * steps / interval_s
        waiting = min(max(float(input_wait_s) / interval_s, 0.0), 1.0)
        values = {name: float(value) for name, value in metrics.items()}
        rates = {
            "clips_per_sec": speed,
            "clips_per_sec_per_device": speed / self._devices,
            "input_wait_frac": waiting,
            **{name: float(value) for name, value in (usage or {}).items()},
        }
        self._record(step, {f"train/{name}": v for name, v in {**values, **rates}.items()})
        words = [f"{name} {number(values[name])}" for name in ("loss", "lr") if name in values]
        # The lower median: after two intervals, the one that compiled no longer counts.
        left_s = (self._total_steps - step) * statistics.median_low(self._step_s)
        used = f"MFU {100 * rates['mfu']:.0f} %  " if "mfu" in rates else ""
        if "device_peak_gib" in rates:
            used += f"memory {rates['device_peak_gib']:.1f} GiB  "
        progress = (
            f"{_rounded(speed)} clips/s ({_rounded(speed / self._devices)}/device)  "
            f"{used}input wait {100 * waiting:.0f} %  ETA {duration(left_s)}"
        )
        percent = 100 * step / self._total_steps
        line = "  ".join([f"step {step}/{self._total_steps} ({percent:.1f} %)", *words, progress])
        self._log(line)
        self._console.progress(line, step, "  ".join([*words[:1], progress]))

    def evaluation(self, step: int, metrics: Mapping[str, Number]) -> None:
        """Reports an evaluation; `top1` is recorded as `eval/top1`."""
        if self._active:
            self._record(step, {f"eval/{name}": float(value) for name, value in metrics.items()})
            words = [f"{name} {number(float(value))}" for name, value in metrics.items()]
            self.message("  ".join([f"step {step}/{self._total_steps}  evaluation", *words]))

    def evaluated(self, step: int) -> bool:
        """Whether an evaluation at a step is among the metrics (process 0 only)."""
        path = self._workdir / "metrics.jsonl"
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        except OSError:
            return False
        return any('"eval/' in line and _step_of(line) == step for line in lines)

    def nonfinite(self, step: int, loss: float, grad_norm: float, examples: Sequence[int]) -> None:
        """Reports a skipped update in `nonfinite.jsonl`; the first ones also in the log.

        Args:
          step: updates made before it.
          loss: of the batch.
          grad_norm: of the batch.
          examples: ids of the batch.
        """
        if not self._active:
            return
        self._nonfinite += 1
        values = {"loss": str(loss), "grad_norm": str(grad_norm), "examples": list(examples)}
        with self._tolerating("nonfinite.jsonl"):
            _append(self._workdir / "nonfinite.jsonl", json.dumps({"step": step, **values}))
        if self._nonfinite <= _LISTED_NONFINITE:
            more = "; others go to nonfinite.jsonl only" * (self._nonfinite == _LISTED_NONFINITE)
            self.message(
                f"warning: step {step} skipped: loss {loss:g}, gradient norm {grad_norm:g}{more}"
            )

    def pictures(self, step: int, name: str, picture: UInt8[np.ndarray, "... 3"]) -> None:
        """Stores a picture for TensorBoard and as `pictures/<name>_<step>.png`.

        An animation, `(frames, height, width, 3)`, becomes a `.gif`.

        Raises:
          ValueError: the name is not made of letters, digits, `_` and `-`, or the picture has not
            three or four axes.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"picture name {name!r}: expected letters, digits, '_' and '-'")
        if not self._active:
            return
        extension, encoded = encode(picture)
        with self._tolerating("pictures"):
            (self._workdir / "pictures").mkdir(exist_ok=True)
            path = self._workdir / "pictures" / f"{name}_{step}{extension}"
            path.write_bytes(encoded)
        if self._tensorboard is not None:
            with self._tolerating("TensorBoard"):
                height, width, _ = picture.shape[-3:]
                self._tensorboard.image(step, f"pictures/{name}", encoded, height, width)

    def message(self, text: str) -> None:
        """Prints and logs a text with its control characters escaped."""
        if self._active:
            text = re.sub(r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f-\x9f]", _escaped, text)
            self._log(text)
            self._console.line(text)

    def close(self) -> None:
        """Ends the bar and closes the files."""
        self._console.close()
        if self._tensorboard is not None:
            with self._tolerating("TensorBoard"):
                self._tensorboard.close()
            self._tensorboard = None

    def _record(self, step: int, values: dict[str, float]) -> None:
        seen = {
            "epoch": step / self._steps_per_epoch,
            "examples_seen": step * self._clips_per_step,
        }
        # JSON has no NaN and no infinity.
        plain = {name: v if math.isfinite(v) else None for name, v in values.items()}
        entry = {"step": step, **seen, "time": time.time(), **plain}
        with self._tolerating("metrics.jsonl"):
            _append(self._workdir / "metrics.jsonl", json.dumps(entry))
        if self._tensorboard is not None:
            with self._tolerating("TensorBoard"):
                self._tensorboard.scalars(step, {**values, **seen})

    def _log(self, text: str) -> None:
        with self._tolerating("log.txt"):
            _append(self._workdir / "log.txt", text)

    @contextlib.contextmanager
    def _tolerating(self, what: str) -> Iterator[None]:
        """Turns failures to write into at most one warning per minute and kind of file."""
        try:
            yield
        except (OSError, ModuleNotFoundError) as error:
            failures = self._failed.setdefault(what, _Failures())
            failures.count += 1
            if self._clock() - failures.warned > _WARN_SECONDS:
                failures.warned = self._clock()
                times = f" ({failures.count} times so far)" if failures.count > 1 else ""
                self._console.line(
                    f"warning: {what} is not written: {error}{times}; training goes on"
                )


@dataclasses.dataclass
class _Failures:
    """Failures to write one kind of file: how many, and when the last warning was."""

    count: int = 0
    warned: float = -math.inf


def number(value: float | int) -> str:
    """A metric with three or four digits: `0.0412`, `3.1e-4`, `6.908`, `76.21`."""
    size = abs(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if size < 1e-3 or size >= 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if size >= 1e3:
        return f"{value:.0f}"
    return f"{value:#.3g}" if size < 1 else f"{value:#.4g}"


def duration(seconds: float | int) -> str:
    """A duration in its two largest units: `2 d 3 h`, `3 h 12 m`, `4 m 5 s`, `7 s`."""
    whole = max(0, round(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} m"
    if minutes:
        return f"{minutes} m {whole % 60} s"
    return f"{whole} s"


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


def _append(path: pathlib.Path, line: str) -> None:
    with open(path, "a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(line + "\n")


def _drop_after(path: pathlib.Path, step: int) -> None:
    """Removes entries after a step, and torn lines, from a metrics file."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= step]
    if kept != lines:
        write_atomically(path, "".join(kept))


def _step_of(line: str) -> float | int:
    """The step of an entry; infinity for a torn line."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
