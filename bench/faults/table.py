"""Renders docs/faults.jsonl into the table of docs/reliability.md.

python -m bench.faults.table
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from bench.faults.results import FILE, OUTCOMES, ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table of faults -->", "<!-- end of table -->"
HEAD = ("fault", "what", "n", *OUTCOMES, "command", "date, commit")


def read(file: pathlib.Path = FILE) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def render(rows: Sequence[dict[str, Any]]) -> str:
    """The table, and below it a note for each row that has one."""
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    notes = []
    for row in rows:
        mark = ""
        if row["note"]:
            notes.append(f"{len(notes) + 1}. {row['fault']}, {row['what']}: {row['note']}.")
            mark = f" [{len(notes)}]"
        counts = [row["outcomes"].get(outcome, 0) for outcome in OUTCOMES]
        command = f"`{row['command']}`"
        when = f"{row['date']}, {row['commit']}"
        lines.append(_line([row["fault"], row["what"] + mark, row["n"], *counts, command, when]))
    total = sum(row["n"] for row in rows)
    sums = [sum(row["outcomes"].get(outcome, 0) for row in rows) for outcome in OUTCOMES]
    lines.append(_line(["", "all", total, *sums, "", ""]))
    machines = sorted({row["machine"] for row in rows})
    return "\n".join([*lines, "", *notes, "", f"Machines: {'; '.join(machines)}."])


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def filled(text: str, table: str) -> str:
    """A document with a table between the marks.

    Raises:
      ValueError: it does not have each mark once.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"expected {BEGIN!r} and {END!r} once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(filled(text, render(read())), encoding="utf-8")


if __name__ == "__main__":
    main()
