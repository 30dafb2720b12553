from __future__ import annotations

import os
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from input_pipeline import EvalView
from maskfeat_jax.commands.visualize import command, middle, pictures
from tests.extract.extract_test import a_run
from tests.recipes import ROOT


def write_video(path, frames):
    """Frames `(n, h, w, 3)` at 10 per second, without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


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


def test_kinds_are_those_of_the_content_and_names_are_bytes(tmp_path):
    frames = np.full((5, 60, 90, 3), 77, np.uint8)
    write_video(tmp_path / "a.mkv", frames)
    names = map(os.fsdecode, (b"\xe9.jpg", b"\n.mp4", b"\xff"))
    video, image, text = (tmp_path / name for name in names)
    (tmp_path / "a.mkv").rename(video)
    Image.fromarray(frames[0]).save(image, "BMP")
    text.write_text("no picture")
    view = EvalView(size=32, resize=60, frames=3, stride=1)
    for path in (video, image):
        np.testing.assert_array_equal(middle(path, view), np.full((1, 3, 32, 32, 3), 77))
    with pytest.raises(ValueError, match=r"\\udcff cannot be read .* expected JPEG, .*, MP4/MOV"):
        middle(text, view)
    with pytest.raises(ValueError, match=r"none cannot be read .*: missing"):
        middle(tmp_path / "none", view)


def test_command_draws_any_file_with_any_run(finished_run, tmp_path):
    pretrained, _ = finished_run("maskfeat_vit_in1k:b16")
    finetuned, _ = finished_run("finetune_vit_in1k:b16", init_from="maskfeat_vit_in1k:b16")
    grey, video, out = (tmp_path / name for name in ("grey.png", "video.mkv", "out.png"))
    Image.new("L", (50, 40), 99).save(grey)
    write_video(video, np.zeros((5, 40, 50, 3), np.uint8))
    for workdir in (pretrained, finetuned):
        command([*map(str, (workdir, grey, video, "--out", out, "--seed", 3))])
        assert Image.open(out).size[1] >= 224
        out.unlink()
    (tmp_path / "text.png").write_text("no image")
    words = [sys.executable, "main.py", "visualize", finetuned, tmp_path / "text.png"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 1
    assert "text.png cannot be read as an image or a video" in done.stderr


def test_boxes_are_not_in_files(tmp_path):
    workdir = a_run(tmp_path / "run", "demo_actions")
    with pytest.raises(ValueError, match=r"classifies boxes, .*load\('.*run'\)\.draw\(video, b"):
        pictures(workdir, [tmp_path / "video.mkv"])


def test_runs_on_videos_give_a_strip_and_an_animation(finished_run, tmp_path, capsys):
    workdir, _ = finished_run("mae_vit_kinetics:b16")
    noise = np.random.default_rng(0).integers(0, 255, (5, 40, 50, 3), dtype=np.uint8)
    write_video(tmp_path / "video.mkv", noise)
    drawn = pictures(workdir, [tmp_path / "video.mkv"])
    assert set(drawn) == {"predictions", "predictions_moving"}
    moving = len(drawn["predictions_moving"])
    assert moving > 1
    capsys.readouterr()
    command([str(workdir), str(tmp_path / "video.mkv"), "--out", str(tmp_path / "out.png")])
    printed = capsys.readouterr().out.split()
    assert printed == [str(tmp_path / "out.png"), str(tmp_path / "out.gif")]
    assert Image.open(tmp_path / "out.gif").n_frames == moving
    assert list((workdir / "pictures").glob("predictions_moving_*.gif"))


def test_not_a_run(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        pictures(tmp_path, [tmp_path / "a.png"])
