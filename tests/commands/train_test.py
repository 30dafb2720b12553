from __future__ import annotations

import pytest

from input_pipeline import Shapes
from maskfeat_jax.commands import train as module
from maskfeat_jax.training.build import build
from tests.recipes import shrunken


def test_processes_compare_both_datasets(tmp_path, monkeypatch):
    class Compared(Exception):
        """Carries the facts."""

    def compare(facts):
        raise Compared(facts)

    monkeypatch.setattr(module, "compare", compare)
    data = Shapes("train", num_examples=16, size=32)
    eval_data = Shapes("validation", num_examples=4, size=32)
    recipe = shrunken("finetune_vit_in1k:b16") | {"data": data, "eval_data": eval_data}
    with pytest.raises(Compared) as raised:
        module.train(build(recipe), tmp_path / "run")
    (facts,) = raised.value.args
    found = {value for key, value in facts.items() if key.startswith("data ")}
    assert found == {data.fingerprint, eval_data.fingerprint}
