"""One run on a GPU: kernels and steps against float32, times against the originals, memory.

    bash bench/gpu.sh RESULTS                             # twelve minutes at most
    bash bench/gpu.sh RESULTS mvit_s memory_vit_b         # some stages, again
    bash bench/gpu.sh RESULTS --device=cpu --small        # tiny sizes, to try the script
    python -m bench.gpu RESULTS --render                  # the tables again

Each stage runs in a process of its own, for a limited time: one that hangs or fails does not lose
the others. RESULTS/results.jsonl receives a line for each result as soon as it is there,
RESULTS/log.txt what the stages print, and RESULTS/summary.md all results as tables.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench import run

Row = dict[str, Any]
ROOT = pathlib.Path(__file__).parents[1]
PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu", "tpu": "tpu,cpu"}  # a CPU, to compare with
HOGS = 128  # images: as many as a step of `vit_b` or of `mvit_s` computes here


class Stage(NamedTuple):
    """A part of the run.

    Attributes:
      seconds: limit.
      rows: results, one after the other.
      small: whether it runs with `--small`, which is for CPUs.
    """

    seconds: float
    rows: Callable[[argparse.Namespace], Iterator[Row]]
    small: bool = True


def machine(args: argparse.Namespace) -> Iterator[Row]:
    """The device and the versions."""
    import jax

    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "numpy", "torch")
    versions = {name: _version(name) for name in packages}
    limit = (device.memory_stats() or {}).get("bytes_limit")
    system = {"python": platform.python_version(), "processors": os.cpu_count()}
    facts = {"device": device.device_kind, "bytes_limit": limit, "driver": _driver()}
    yield {**facts, **system, "versions": versions}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def kernels(args: argparse.Namespace) -> Iterator[Row]:
    """See `gpu_checks.kernels`."""
    from bench import gpu_checks

    yield from gpu_checks.kernels(args.small)


def steps(args: argparse.Namespace) -> Iterator[Row]:
    """See `gpu_checks.steps`."""
    from bench import gpu_checks

    yield from gpu_checks.steps(args.small)


def times(
    case: str,
    batch: int,
    args: argparse.Namespace,
    *,
    dtype: str = "bfloat16",
    strong: bool = False,
) -> Iterator[Row]:
    """A case of `bench.run`, taking turns with its original."""
    options = [f"--batch={1 if args.small else batch}", f"--runs={1 if args.small else 10}"]
    options += ["--rounds=3", f"--device={args.device}", f"--dtype={dtype}"]
    yield run.compare(case, run.parse([case, *options, *(["--strong"] if strong else [])]))


def memory(case: str, batch: int, args: argparse.Namespace) -> Iterator[Row]:
    """Memory of a step of a case, as `estimate` says and as it is."""
    from bench import estimate_memory, gpu_checks

    batch = 1 if args.small else batch
    computation = gpu_checks.computation_of(case, batch)
    yield {"case": case, "batch": batch, **estimate_memory.measure_step(computation)}


# In the order of their value; together twelve minutes.
STAGES: dict[str, Stage] = {
    "machine": Stage(15, machine),
    "kernels": Stage(80, kernels),
    "steps": Stage(80, steps),
    "vit_b": Stage(55, functools.partial(times, "vit_b", 128)),
    "vit_b_strong": Stage(65, functools.partial(times, "vit_b", 128, strong=True)),
    "mae_b": Stage(55, functools.partial(times, "mae_b", 32)),
    "hog": Stage(30, functools.partial(times, "hog", HOGS, dtype="float32")),
    "mae_b_strong": Stage(45, functools.partial(times, "mae_b", 32, strong=True), small=False),
    "memory_vit_b": Stage(40, functools.partial(memory, "vit_b", 128)),
    "mvit_s": Stage(190, functools.partial(times, "mvit_s", 16), small=False),
    "mae_l": Stage(60, functools.partial(times, "mae_l", 16), small=False),
}


class Results:
    """The files of a run."""

    def __init__(self, folder: pathlib.Path):
        """Makes the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.log = folder / "results.jsonl", folder / "log.txt"
        self.summary = folder / "summary.md"

    def add(self, stage: str, row: Row) -> None:
        """Appends a result."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, **row}) + "\n")

    def rows(self) -> list[Row]:
        """All results."""
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]

    def drop(self, stage: str) -> None:
        """Removes the results of a stage, which runs again."""
        kept = [json.dumps(row) + "\n" for row in self.rows() if row["stage"] != stage]
        self.file.write_text("".join(kept), encoding="utf-8")


def run_stages(names: Sequence[str], results: Results, seconds: float, options: list[str]) -> int:
    """Runs stages one after the other; returns how many did not end as they should."""
    end, bad = time.monotonic() + seconds, 0
    for name in names:
        results.drop(name)
        start = time.monotonic()
        ended = "not started: no time was left"
        if end - start > 10:
            limit = min(STAGES[name].seconds, end - start)
            ended = _run_stage(name, results, limit, options)
        took = round(time.monotonic() - start, 1)
        results.add(name, {"ended": ended, "took_s": took})
        print(f"{name:16s} {took:6.1f} s  {ended}", flush=True)
        results.summary.write_text(render(results.rows()), encoding="utf-8")
        bad += ended != "ok"
    return bad


def _run_stage(name: str, results: Results, seconds: float, options: list[str]) -> str:
    """Runs a stage in a process; returns how it ended."""
    command = [sys.executable, "-m", "bench.gpu", str(results.file.parent.absolute()), name]
    with results.log.open("a", encoding="utf-8") as log:
        print(f"== {name}", file=log, flush=True)
        child = subprocess.Popen(
            [*command, "--child", *options],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,  # with the workers that it starts
        )
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill_group(child)
    return {0: "ok", None: f"stopped after {seconds:.0f} s"}.get(code, f"failed, code {code}")


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def render(rows: Sequence[Row]) -> str:
    """All results as Markdown."""
    by_stage: dict[str, list[Row]] = {}
    ended = []
    for row in rows:
        if "ended" in row:
            ended.append([row["stage"], row["ended"], row["took_s"]])
        else:
            by_stage.setdefault(row["stage"], []).append(row)
    timed = {name: found[0] for name, found in by_stage.items() if "ours" in found[0]}
    of_memory = [row for found in by_stage.values() for row in found if "state" in row]
    parts = [
        *(_of_machine(row) for row in by_stage.get("machine", [])),
        _table(
            ["kernel", "shape", "dtype", "error", "bound", ""],
            map(_of_kernel, by_stage.get("kernels", [])),
        ),
        _table(
            ["step", "clips", "loss (bound)", "gradient norm", "gradient", ""],
            map(_of_step, by_stage.get("steps", [])),
        ),
        _table(
            ["case", "ours", "PyTorch", "ratio (95 %)", "utilisation", "compiled in"],
            [_of_times(name, row) for name, row in timed.items()],
        ),
        _table(["HOG of a step", "share"], _of_hog(timed)),
        _table(
            [
                "step",
                "clips",
                "state, estimated / compiler / measured, GiB",
                "peak, likewise",
                "estimated / measured",
            ],
            map(_of_memory, of_memory),
        ),
        _table(["stage", "ended", "s"], ended),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [list(map(str, row)) for row in rows]
    if not lines:
        return ""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def _of_machine(row: Row) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in row["versions"].items() if v)
    driver = f", driver {row['driver']}" if row["driver"] else ""
    return f"{row['device']}{driver}; Python {row['python']}, {versions}."


def _of_kernel(row: Row) -> list[Any]:
    facts = [row["kernel"], row["shape"], row["dtype"]]
    if "failed" in row:
        return [*facts, row["failed"], "", "**failed**"]
    return [*facts, f"{row['error']:.1e}", f"{row['bound']:.1e}", _within(row)]


def _of_step(row: Row) -> list[Any]:
    if "failed" in row:
        return [row["case"], "", row["failed"], "", "", "**failed**"]
    shares = [f"{row['error'][name]:.2%} ({bound:.1%})" for name, bound in row["bound"].items()]
    return [row["case"], row["clips"], *shares, _within(row)]


def _within(row: Row) -> str:
    return "within" if row["within"] else "**beyond**"


def _of_times(name: str, row: Row) -> list[Any]:
    ours, theirs = row["ours"], row.get("theirs")
    ratio = ""
    if theirs:
        low, high = row["ratio_95"]
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
    return [
        f"{name}, {row['batch']}",
        f"{1e3 * ours['median_s']:.1f} ms",
        f"{1e3 * theirs['median_s']:.1f} ms" if theirs else "",
        ratio,
        f"{ours['utilisation']:.1%}" if "utilisation" in ours else "",
        f"{ours['compile_s']:.0f} s" if "compile_s" in ours else "",
    ]


def _of_hog(timed: Mapping[str, Row]) -> list[list[Any]]:
    """Time of HOG alone relative to that of a step with as many images."""
    if "hog" not in timed:
        return []
    alone = timed["hog"]["ours"]["median_s"]
    found = [name for name in ("vit_b", "mvit_s") if name in timed]
    return [[name, f"{alone / timed[name]['ours']['median_s']:.2%}"] for name in found]


def _of_memory(row: Row) -> list[Any]:
    sides = ("estimated", "compiled", "measured")
    sizes = [
        " / ".join(f"{row[what][side] / 2**30:.2f}" for side in sides) for what in ("state", "peak")
    ]
    ratio = row["peak"]["estimated"] / row["peak"]["measured"]
    return [row["case"], row["batch"], *sizes, f"{ratio:.2f}"]


def main(argv: Sequence[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=pathlib.Path, help="folder")
    parser.add_argument("stages", nargs="*", help=f"some of {', '.join(STAGES)}; all by default")
    parser.add_argument("--device", choices=list(PLATFORMS), default="gpu")
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    parser.add_argument("--seconds", type=float, default=720, help="limit of all together")
    parser.add_argument("--render", action="store_true", help="only write the tables again")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if unknown := set(args.stages) - set(STAGES):
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    results = Results(args.results)
    if args.child:
        import jax

        jax.config.update("jax_platforms", PLATFORMS[args.device])
        for row in STAGES[args.stages[0]].rows(args):
            results.add(args.stages[0], row)
        return
    if args.render:
        results.summary.write_text(render(results.rows()), encoding="utf-8")
        return
    names = args.stages or [name for name, each in STAGES.items() if each.small or not args.small]
    options = [f"--device={args.device}", *(["--small"] if args.small else [])]
    bad = run_stages(names, results, args.seconds, options)
    print(results.summary.read_text(encoding="utf-8"))
    beyond = [row for row in results.rows() if not row.get("within", True)]
    sys.exit(bool(bad or beyond))


if __name__ == "__main__":
    main(sys.argv[1:])
