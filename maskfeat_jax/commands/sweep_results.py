"""Results of a sweep: what is known of each run, and the tables and the figure of all.

Beside the work directory of a run is a file `<stage>_<seed>.json` with its end and its recipe.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskfeat_jax.commands.sweep_plan import Run
from maskfeat_jax.files import replacing, write_atomically
from maskfeat_jax.sections import as_json, differences
from maskfeat_jax.training.build import fixed_recipe
from maskfeat_jax.workdir.workdir import warn_on_oserror, write_table

COMPLETE, FAILED, MISSING = "complete", "failed", "missing"
_PERCENT = re.compile(r"top1|top5|mean_class_top1|mAP(_.+)?")  # are fractions, shown in %


def state_of(run: Run) -> str:
    """Whether a run is complete, has failed, or neither, by its files."""
    found = _read(_record_of(run))
    if found.get("state") == FAILED:
        return FAILED
    same = not differences(fixed_recipe(found.get("recipe", {})), fixed_recipe(as_json(run.recipe)))
    status = _status(run)
    same = same and found.get("needs") == _needs(run)
    done = found.get("state") == COMPLETE and status.get("state") == "finished"
    return COMPLETE if done and same and {*run.metrics} <= {*status} else MISSING


def record(run: Run, exit_code: int | None, last_words: str) -> None:
    """Notes the end of a run.

    Args:
      run: which.
      exit_code: of its process; None if it was not started.
      last_words: why, if it has failed.
    """
    status = _status(run)
    lacking = [name for name in run.metrics if name not in status]
    end: dict[str, Any] = {"state": COMPLETE, "exit_code": exit_code, "recipe": run.recipe}
    end["needs"] = _needs(run)
    if exit_code is None:
        end.update(state=FAILED, reason=last_words)
    elif exit_code:
        end.update(state=FAILED, reason=f"exit code {exit_code}: {last_words}")
    elif lacking:
        there = ", ".join(sorted(k for k, v in status.items() if isinstance(v, float)))
        reason = f"metrics: {', '.join(lacking)} is not in its results; there are {there}"
        end.update(state=FAILED, reason=reason)
    write_atomically(_record_of(run), json.dumps(as_json(end), indent=2) + "\n")


def forget(run: Run) -> None:
    """Removes what `record` wrote."""
    _record_of(run).unlink(missing_ok=True)


def summary(run: Run) -> str:
    """State and metrics of a run, in a line."""
    state = state_of(run)
    if state == COMPLETE:
        return ", ".join(f"{k} {_shown(k, v)}" for k, v in _metrics(run).items())
    return f"{state}, {_read(_record_of(run)).get('reason', '')}"


def write_results(runs: Sequence[Run], workdir: Path) -> None:
    """Writes `table.md`, `table.csv` and `figure.png` of all runs; a full disk gives a warning."""
    states = {run.name: state_of(run) for run in runs}
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    lines = []
    for run in runs:
        values = _metrics(run) if states[run.name] == COMPLETE else {}
        line = {"row": run.row, "stage": run.stage, "seed": run.seed, "state": states[run.name]}
        lines.append({**line, **{name: values.get(name) for name in names}})
    write_table(workdir / "table.csv", lines)
    rows = list(dict.fromkeys(run.row for run in runs))
    cells = _cells(runs, states)
    with warn_on_oserror("table.md"):
        write_atomically(workdir / "table.md", _markdown(runs, states, cells))
    with warn_on_oserror("figure.png"), replacing(workdir / "figure.png") as path:
        draw(path, rows, cells)


class Cell(NamedTuple):
    """The runs of a row and a stage.

    Attributes:
      values: of one metric, of those that are complete.
      failed, missing: number of the others.
    """

    values: list[float]
    failed: int
    missing: int


Cells = dict[tuple[str, str], dict[str, Cell]]  # (stage, metric) -> row -> cell


def _cells(runs: Sequence[Run], states: Mapping[str, str]) -> Cells:
    """Columns of the table, with those rows that have the stage."""
    cells: Cells = {}
    for run in sorted(runs, key=lambda run: run.order):
        for name in run.metrics:
            column = cells.setdefault((run.stage, name), {})
            old = column.get(run.row, Cell([], 0, 0))
            state = states[run.name]
            values = [*old.values, _metrics(run)[name]] if state == COMPLETE else old.values
            column[run.row] = Cell(
                values, old.failed + (state == FAILED), old.missing + (state == MISSING)
            )
    return cells


def _markdown(runs: Sequence[Run], states: Mapping[str, str], cells: Cells) -> str:
    titles = ["", *(f"{stage} {_title(name)}" for stage, name in cells)]
    lines = [titles, ["---"] * len(titles)]
    for row in dict.fromkeys(run.row for run in runs):
        shown = (
            _cell(name, column[row]) if row in column else "" for (_, name), column in cells.items()
        )
        lines.append([row, *shown])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    text += "\nMean ± standard deviation over seeds, and in brackets their number.\n"
    open_runs = [run for run in runs if states[run.name] != COMPLETE]
    if open_runs:
        text += "\nNot complete:\n\n"
        text += "".join(f"- {run.name}: {summary(run)}\n" for run in open_runs)
    return text


def _title(name: str) -> str:
    return f"{name}, %" if _PERCENT.fullmatch(name) else name


def _cell(name: str, cell: Cell) -> str:
    """Such as `43.5 ± 0.7 (2, 1 failed)`."""
    counts = [f"{n} {word}" for n, word in ((cell.failed, FAILED), (cell.missing, MISSING)) if n]
    if not cell.values:
        return ", ".join(counts)
    mean = _shown(name, statistics.fmean(cell.values))
    spread = f" ± {_shown(name, _deviation(cell))}" if len(cell.values) > 1 else ""
    return f"{mean}{spread} ({', '.join([str(len(cell.values)), *counts])})"


def _deviation(cell: Cell) -> float:
    return statistics.stdev(cell.values) if len(cell.values) > 1 else 0.0


def _shown(name: str, value: float) -> str:
    return f"{100 * value:.1f}" if _PERCENT.fullmatch(name) else f"{value:.4g}"


def draw(path: Path, rows: Sequence[str], cells: Cells) -> None:
    """Draws a panel for each column: each seed of each row, mean and standard deviation."""
    from matplotlib.figure import Figure  # takes a second

    figure = Figure(figsize=(1.5 + 3 * len(cells), 1.2 + 0.3 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(cells), sharey=True, squeeze=False)[0]
    for panel, ((stage, name), column) in zip(panels, cells.items(), strict=True):
        scale = 100 if _PERCENT.fullmatch(name) else 1
        for row, cell in column.items():
            values = [scale * value for value in cell.values if math.isfinite(value)]
            if not values:
                continue
            at = rows.index(row)
            panel.plot(values, [at] * len(values), "o", color="0.7", markersize=3)
            mean, spread = statistics.fmean(values), scale * _deviation(cell)
            panel.errorbar(mean, at, xerr=spread, fmt="o", color="C0", capsize=3)
        panel.set_xlabel(f"{stage} {_title(name)}")
        panel.grid(axis="x", color="0.9")
        panel.locator_params(axis="x", nbins=5)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.savefig(path, format="png", dpi=150)


def _record_of(run: Run) -> Path:
    return _record_at(run.workdir)


def _record_at(workdir: Path) -> Path:
    return Path(f"{workdir}.json")


def _needs(run: Run) -> dict[str, str]:
    """SHA-256 of the records of the runs that it needs; after others it is not complete."""
    records = {"/".join(path.parts[-2:]): _read(_record_at(path)) for path in run.needs}
    return {
        name: hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
        for name, found in records.items()
    }


def _status(run: Run) -> dict[str, Any]:
    return _read(run.workdir / "STATUS.json")


def _metrics(run: Run) -> dict[str, float]:
    """Metrics of the last evaluation of a complete run; NaN is a text in the file."""
    status = _status(run)
    return {name: float(status[name]) for name in run.metrics}


def _read(path: Path) -> dict[str, Any]:
    """A file of JSON; empty if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
