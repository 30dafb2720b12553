from __future__ import annotations

from types import SimpleNamespace

from input_pipeline.source import LeftOut
from maskfeat_jax.checkpoints.checkpointer import Checkpoints
from maskfeat_jax.checkpoints.pretrained import load_pretrained
from maskfeat_jax.training.build import build
from maskfeat_jax.training.run import _first_state, _report
from maskfeat_jax.workdir.workdir import open_workdir
from tests.convert.models import assert_same
from tests.recipes import shrunken


def test_a_run_reports_the_files_that_are_left_out(tmp_path):
    source = SimpleNamespace(left_out=LeftOut({".heic": 3, ".\udce9": 1}))
    experiment = SimpleNamespace(
        training=SimpleNamespace(source=source),
        testing=SimpleNamespace(source=SimpleNamespace()),  # one that counts nothing
        run=SimpleNamespace(batch_size=4),
    )
    _report(experiment, tmp_path, total_steps=1, steps_per_epoch=1).close()
    log = (tmp_path / "log.txt").read_text()
    assert log == "data: 4 other files left out: .heic 3, .\\udce9 1\n"


def test_a_run_of_before_goes_on_with_stacked_blocks(tmp_path):
    """When `model.scan` was among the keys that may not change."""
    recipe = shrunken("maskfeat_vit_in1k:b16", depth=2)
    before = build(recipe)
    state = before.init()
    facts = {"data": before.data.source.fingerprint, "recipe": before.fixed_recipe}
    recipe["model"]["scan"] = True
    after = build(recipe)
    open_workdir(tmp_path, after.recipe)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        stored = {"recipe": {**facts["recipe"], "model.scan": "false"}}
        checkpoints.save(0, state.stored, {**facts, **stored})
        found, _ = _first_state(after, checkpoints, facts)
    assert found.params["encoder"]["blocks"].keys() == {"0-1"}
    assert_same(found.params, state.params)
    assert found.opt_state[1].mu["encoder"]["blocks"].keys() == {"0-1"}
    # Until the next save, the recipe says something else than the checkpoint.
    loaded = load_pretrained(tmp_path).model.encoder.scan
    assert loaded is False
