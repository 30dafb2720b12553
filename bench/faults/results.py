"""What became of the faults that were put in: one line of `docs/faults.jsonl` for each series.

`python -m bench.faults.table` makes the table of docs/reliability.md of it.
"""

from __future__ import annotations

import collections
import datetime
import fcntl
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
FILE = ROOT / "docs" / "faults.jsonl"
GOOD = ("recovered", "clean stop")
OUTCOMES = (*GOOD, "noticed late", "wrong in silence", "hang or damage")


def record(
    fault: str,
    what: str,
    outcomes: Mapping[str, int],
    *,
    command: str | None = None,
    note: str = "",
    file: pathlib.Path = FILE,
    **details: Any,
) -> dict[str, Any]:
    """Adds a line, and takes the place of an earlier one of the same fault and `what`.

    Args:
      fault: number in the catalogue, such as "A1".
      what: what was put in, in words.
      outcomes: how often each of `OUTCOMES` came of it; their sum is n.
      command: makes the series again; None: the one that runs.
      note: what else a reader must know.
      file: where to.
      **details: counts by class, seconds, seeds; JSON-serialisable.
    """
    assert set(outcomes) <= set(OUTCOMES), outcomes
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    row = {
        "fault": fault,
        "what": what,
        "n": sum(outcomes.values()),
        "outcomes": dict(collections.Counter(outcomes)),
        "command": command or _typed(),
        "note": note,
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}",
        "details": details,
    }
    with open(file, "a+", encoding="utf-8") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)  # several series may end at once
        lines.seek(0)
        rows = [json.loads(line) for line in lines]
        rows = [old for old in rows if (old["fault"], old["what"]) != (fault, what)] + [row]
        rows.sort(key=_order)
        lines.truncate(0)
        lines.write("".join(json.dumps(row) + "\n" for row in rows))
    return row


def _typed() -> str:
    module = sys.modules["__main__"].__spec__.name.removesuffix(".__main__")
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def _order(row: Mapping[str, Any]) -> tuple[str, int, str]:
    return row["fault"][0], int(row["fault"][1:].split("-")[0]), row["what"]
