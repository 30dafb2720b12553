from __future__ import annotations

import importlib.util
import json
import re

import numpy as np
from PIL import Image

from maskfeat_jax.training.experiment import Experiment
from tests.recipes import ROOT

_spec = importlib.util.spec_from_file_location("make_notebook", ROOT / "docs/make_notebook.py")
make_notebook = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_notebook)

TEXT = (ROOT / "docs/notebook.md").read_text()
STORED = json.loads((ROOT / "docs/notebook.ipynb").read_text())


def texts(cell):
    """What a cell printed, and the text of values."""
    outputs = cell.get("outputs", [])
    return "".join("".join(x.get("text", x.get("data", {}).get("text/plain", ""))) for x in outputs)


def kinds(cell):
    """Types of the outputs of a cell."""
    return [[*x.get("data", {"stream": ""})] for x in cell.get("outputs", [])]


def test_the_blocks_run_one_after_the_other(monkeypatch, tmp_path):
    monkeypatch.setattr(Experiment, "total_steps", 4)
    monkeypatch.chdir(tmp_path)
    made = make_notebook.notebook(TEXT)
    assert [kinds(cell) for cell in made["cells"]] == [kinds(cell) for cell in STORED["cells"]]
    printed = "".join(map(texts, made["cells"]))
    assert "token (2, 1, 4, 4, 96) float32" in printed
    assert "step 4/4  evaluation" in printed
    assert float(re.search(r"np\.float32\((.*)\)", printed)[1]) <= 1e-5
    runs = {path.parent.name for path in tmp_path.glob("runs/*/checkpoints")}
    assert runs == {"notebook", "notebook_finetuned", "notebook_scratch"}


def test_the_notebook_is_made_of_the_text():
    stored = [(cell["cell_type"], "".join(cell["source"])) for cell in STORED["cells"]]
    assert stored == [*make_notebook.cells(TEXT)]
    assert "".join(text for kind, text in stored if kind == "code").count("\n") > 100


def test_the_stored_outputs_are_those_of_the_whole_run():
    printed = "".join(map(texts, STORED["cells"]))
    assert "step 1024/1024" in printed
    for sign in ("oneDNN", "Warning", "/tmp/", "/home/", "Traceback"):
        assert sign not in json.dumps(STORED)
    share = dict(re.findall(r"^(pre-trained|untrained|pixels) +(\d+)%$", printed, re.M))
    assert "It is {pre-trained} %".format(**share) in TEXT
    sentence = " ".join(TEXT.split())
    assert (
        "{untrained} % for the untrained one and {pixels} % for pixels".format(**share) in sentence
    )
    assert int(share["pre-trained"]) > 2 * int(share["untrained"])


def test_outputs_are_what_jupyter_shows():
    names = {}
    printed, value = make_notebook.run("x = 2\nprint('a')\nprint('b')\nx * 3", names)
    assert printed == {"output_type": "stream", "name": "stdout", "text": ["a\n", "b\n"]}
    assert value["data"] == {"text/plain": ["6"]}
    assert [*make_notebook.run("y = x", names)] == [*make_notebook.run("None", names)] == []
    (picture,) = make_notebook.run(
        "image", {"image": Image.fromarray(np.zeros((2, 2, 3), np.uint8))}
    )
    assert picture["data"]["image/png"].startswith("iVBORw0KGgo")
