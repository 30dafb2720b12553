from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import main
from maskfeat_jax.visualize import middle
from tests.recipes import ROOT, shrunken


def test_middle_is_the_view_of_evaluation(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    view = main.input_pipeline.EvalView(size=32, resize=40)
    wanted = view((tmp_path / "a.png").read_bytes(), np.random.default_rng(0))
    np.testing.assert_array_equal(middle(tmp_path / "a.png", 32, 40), wanted)


def test_command_draws_any_image_with_any_run(tmp_path):
    for task, name in (
        ("pretrain", "maskfeat_vit_b16_in1k"),
        ("finetune", "finetune_vit_b16_in1k"),
    ):
        small = shrunken(name)
        small["run"]["epochs"] = 1
        main.run_recipe(small, tmp_path / task)
        Image.new("L", (50, 40), 99).save(tmp_path / "grey.png")
        words = [
            tmp_path / task,
            tmp_path / "grey.png",
            "--out",
            tmp_path / "out.png",
            "--seed",
            "3",
        ]
        command = [sys.executable, "-m", "maskfeat_jax.visualize", *map(str, words)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=200)
        assert Image.open(tmp_path / "out.png").size[1] >= 224
    (tmp_path / "text.png").write_text("no image")
    done = subprocess.run(
        [*command[:4], str(tmp_path / "text.png")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "text.png cannot be read as an image" in done.stderr


def test_not_a_run(tmp_path):
    from maskfeat_jax.visualize import picture

    with pytest.raises(ValueError, match=str(tmp_path)):
        picture(tmp_path, [tmp_path / "a.png"])
