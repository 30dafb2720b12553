from __future__ import annotations

from types import SimpleNamespace

from input_pipeline.source import LeftOut
from maskfeat_jax.training.run import _report


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
