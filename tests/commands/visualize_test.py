from __future__ import annotations

import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from maskfeat_jax.commands.train import run_recipe
from input_pipeline import EvalView
from maskfeat_jax.commands.visualize import middle, pictures
from tests.recipes import ROOT, shrunken


def write_video(path, frames):
    """Frames `(n, h, w, 3)` at 10 per second, without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


def run(workdir, *words):
    command = [
        sys.executable,
        "-m",
        "maskfeat_jax.commands.visualize",
        *map(str, (workdir, *words)),
    ]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200
    )


def test_middle_of_an_image_and_of_a_video(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (image,) = middle(tmp_path / "a.png", EvalView(size=32, resize=60))
    np.testing.assert_array_equal(image[0], pixels[14:46, 29:61])
    (still,) = middle(tmp_path / "a.png", EvalView(size=32, resize=60, frames=4, stride=2))
    np.testing.assert_array_equal(still, np.repeat(image, 4, axis=0))
    frames = rng.integers(0, 255, (9, 60, 90, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mkv", frames)
    view = EvalView(size=32, resize=60, frames=3, stride=1, sampling="strided")
    (clip,) = middle(tmp_path / "a.mkv", view)
    np.testing.assert_array_equal(clip, frames[3:6, 14:46, 29:61])


def test_command_draws_any_file_with_any_run(tmp_path):
    for task, name in (
        ("pretrain", "maskfeat_vit_b16_in1k"),
        ("finetune", "finetune_vit_b16_in1k"),
    ):
        small = shrunken(name)
        small["run"]["epochs"] = 1
        run_recipe(small, tmp_path / task)
        Image.new("L", (50, 40), 99).save(tmp_path / "grey.png")
        write_video(tmp_path / "video.mkv", np.zeros((5, 40, 50, 3), np.uint8))
        files = [tmp_path / "grey.png", tmp_path / "video.mkv"]
        done = run(tmp_path / task, *files, "--out", tmp_path / "out.png", "--seed", "3")
        assert done.returncode == 0, done.stderr
        assert Image.open(tmp_path / "out.png").size[1] >= 224
    (tmp_path / "text.png").write_text("no image")
    done = run(tmp_path / "finetune", tmp_path / "text.png")
    assert done.returncode == 1
    assert "text.png cannot be read as an image or a video" in done.stderr


@pytest.mark.slow
def test_runs_on_videos_give_a_strip_and_an_animation(tmp_path):
    small = shrunken("maskfeat_vit_b16_in1k")
    small["run"]["epochs"] = 1
    small["model"]["tubelet"] = (2, 16, 16)
    small["mask"] = {"name": "cube", "ratio": 0.4}
    small["view"] |= {"frames": 4}
    small["eval_view"] |= {"frames": 4, "sampling": "strided"}
    run_recipe(small, tmp_path / "run")
    noise = np.random.default_rng(0).integers(0, 255, (5, 40, 50, 3), dtype=np.uint8)
    write_video(tmp_path / "video.mkv", noise)
    drawn = pictures(tmp_path / "run", [tmp_path / "video.mkv"])
    assert set(drawn) == {"predictions", "predictions_moving"}
    assert len(drawn["predictions_moving"]) == 2
    done = run(tmp_path / "run", tmp_path / "video.mkv", "--out", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "out.png"), str(tmp_path / "out.gif")]
    assert Image.open(tmp_path / "out.gif").n_frames == 2
    assert list((tmp_path / "run" / "pictures").glob("predictions_moving_*.gif"))


def test_not_a_run(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        pictures(tmp_path, [tmp_path / "a.png"])
