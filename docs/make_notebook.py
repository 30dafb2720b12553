"""Makes docs/notebook.ipynb from docs/notebook.md: runs its code blocks, keeps what they show.

    python docs/make_notebook.py

Printed lines and the value of a block's last expression become the outputs, as in Jupyter; an image
becomes a PNG. What other programs write to the terminal does not.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

SOURCE = Path(__file__).with_name("notebook.md")


def cells(text: str) -> Iterator[tuple[str, str]]:
    """Kind, "markdown" or "code", and text of each cell."""
    for number, piece in enumerate(re.split(r"^```python\n(.*?)^```$", text, flags=re.S | re.M)):
        if piece.strip():
            yield ("code" if number % 2 else "markdown"), piece.strip("\n")


def run(code: str, names: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Executes a block in a namespace; yields its outputs as a notebook has them."""
    *statements, last = ast.parse(code).body
    shown, printed = None, io.StringIO()
    with contextlib.redirect_stdout(printed):
        if not isinstance(last, ast.Expr):
            statements.append(last)
        exec(compile(ast.Module(statements, []), "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    if printed.getvalue():
        yield {"output_type": "stream", "name": "stdout", "text": lines_of(printed.getvalue())}
    if shown is not None:
        yield {"output_type": "display_data", "metadata": {}, "data": data_of(shown)}


def data_of(shown: Any) -> dict[str, Any]:
    """A value by MIME type; images in 256 colours, to keep the file small."""
    if not isinstance(shown, Image.Image):
        return {"text/plain": lines_of(repr(shown))}
    file = io.BytesIO()
    shown.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return {"image/png": base64.b64encode(file.getvalue()).decode()}


def lines_of(text: str) -> list[str]:
    """Lines as a notebook stores them."""
    return text.splitlines(keepends=True)


def notebook(text: str) -> dict[str, Any]:
    """The executed notebook of a Markdown file; its blocks run in the current directory."""
    names: dict[str, Any] = {"__name__": "__main__"}
    made: list[dict[str, Any]] = []
    for number, (kind, source) in enumerate(cells(text)):
        cell = {"id": f"cell{number}", "cell_type": kind, "metadata": {}}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": list(run(source, names))}
        made.append({**cell, "source": lines_of(source)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def main() -> None:
    """Writes the notebook."""
    sys.path.insert(0, str(SOURCE.parents[1]))
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        made = notebook(SOURCE.read_text(encoding="utf-8"))
        os.chdir(here)
    text = json.dumps(made, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    SOURCE.with_suffix(".ipynb").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
