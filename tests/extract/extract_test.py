from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from input_pipeline import EvalView
from input_pipeline.decode.video import VideoFile
from maskfeat_jax import convert
from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints.checkpointer import Checkpoints
from maskfeat_jax.convert import Pretrained, load, save
from maskfeat_jax.convert.importing import shapes_of
from maskfeat_jax.extract.__main__ import main, view_of
from maskfeat_jax.extract.features import Features
from maskfeat_jax.models import create_model
from maskfeat_jax.sections import Reader, RecipeError
from maskfeat_jax.tasks import task_of
from tests.convert.models import small
from tests.input_pipeline.samples import encode, picture
from tests.input_pipeline.video_samples import encode_video
from tests.recipes import ROOT, shrunken

VIT = {"encoder": "vit_ti16", "width": 32, "depth": 2, "heads": 2, "tubelet": (2, 16, 8)}
MVIT = {"encoder": "mvit_v2_s", "width": 8, "depth": 2, "stages": (1,), "tubelet": (2, 8, 8)}
BARE = {**VIT, "class_token": False, "positions": "sinusoid"}
CLIP = (4, 32, 32)
CLASSIFIER = {"name": "classifier", "num_classes": 5}


def drawn(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda like: rng.normal(0, 0.2, like.shape).astype(np.float32), shapes)


def trained_as(head, encoder):
    model = create_model(head["name"], head={k: head[k] for k in head if k != "name"}, **encoder)
    params = drawn(shapes_of(model, CLIP))
    return Pretrained(model, params, CLIP, Normalise(), {"head": head}, "a test")


def some_video():
    return np.random.default_rng(1).integers(0, 256, (2, *CLIP, 3), dtype=np.uint8)


def features_of(trained, **settings):
    features = Features(trained, **settings)
    return np.asarray(jax.jit(features)(features.params, some_video()))


def outputs_of(trained, *inputs):
    clips = trained.normalise(some_video())
    return np.asarray(jax.jit(trained.model.apply)({"params": trained.params}, clips, *inputs))


def project(trained, features):
    projection = trained.params["projection"]
    return features @ projection["kernel"] + projection["bias"]


@pytest.mark.parametrize(
    ("head", "encoder"),
    [
        ({"pool": "mean"}, VIT),
        ({"pool": "class"}, MVIT),
        ({"pool": "mean"}, BARE),
        ({"pool": "mean", "norm_of": "tokens", "last_epsilon": 0.1}, VIT),
        ({"pool": "class"}, {**VIT, "epsilon": 0.1}),
    ],
)
def test_a_clip_is_what_the_linear_map_of_a_classifier_sees(head, encoder):
    trained, pool = trained_as({**CLASSIFIER, **head}, encoder), head["pool"]
    logits = project(trained, features_of(trained, pool=pool))
    np.testing.assert_allclose(logits, outputs_of(trained), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_a_clip_is_what_neighbours_and_linear_probes_see(pool):
    trained = trained_as({"name": "features", "pool": pool}, VIT)
    features = features_of(trained, pool=pool)
    np.testing.assert_allclose(features, outputs_of(trained), rtol=0, atol=1e-5)


def test_tokens_are_what_the_linear_map_of_pre_training_sees():
    mask = np.zeros((2, 2, 2, 4), bool)
    trained = trained_as({"name": "maskfeat", "dim": 7}, VIT)
    tokens = features_of(trained, per="token")
    assert tokens.shape[:4] == mask.shape
    predicted = project(trained, tokens)
    np.testing.assert_allclose(predicted, outputs_of(trained, mask), rtol=0, atol=1e-5)
    frames = features_of(trained, per="frame")
    np.testing.assert_allclose(frames, tokens.mean((2, 3)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(features_of(trained), frames.mean(1), rtol=0, atol=1e-5)


def test_without_a_norm_tokens_are_those_of_the_encoder():
    trained = trained_as(CLASSIFIER, VIT)
    with_norm = features_of(trained)
    bare = {name: x for name, x in trained.params.items() if name != "norm"}
    trained = dataclasses.replace(trained, params=bare)
    clips = trained.normalise(some_video())
    tokens = trained.model.encoder.apply({"params": bare["encoder"]}, clips)
    np.testing.assert_allclose(features_of(trained), tokens[:, 1:].mean(1), rtol=0, atol=1e-5)
    assert np.abs(with_norm - features_of(trained)).max() > 0.1


def a_run(workdir, name, **eval_view):
    """A work directory of a recipe with drawn parameters."""
    recipe = shrunken(name)
    recipe["eval_view"].update(eval_view)
    view, reader = EvalView(**recipe["eval_view"]), Reader(recipe)
    task = task_of(reader).from_recipe(reader, view.shape[:3])
    reader.problems.stop()
    params = drawn(jax.eval_shape(task.init, jax.random.key(0)))
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(recipe))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(0, {"params": params}, {})
    return workdir


@pytest.fixture(scope="module")
def image_run(tmp_path_factory):
    return a_run(tmp_path_factory.mktemp("runs") / "images", "finetune_vit_in1k:b16")


@pytest.fixture(scope="module")
def video_run(tmp_path_factory):
    return a_run(tmp_path_factory.mktemp("runs") / "videos", "mae_vit_kinetics:l16")


def write_images(folder, names):
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(picture(seed)))


def refused(capsys, *words):
    """Exit code and message."""
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, words)])
    return stopped.value.code, capsys.readouterr().err


def extracted(*words):
    main([*map(str, words)])
    out = next(str(word)[6:] for word in words if str(word).startswith("--out="))
    with np.load(out) as file:
        return {name: file[name] for name in file}


def test_folder_of_classes_with_a_broken_image(tmp_path, image_run, capsys):
    names = ["cat/a.jpg", "cat/b.jpg", "dog/deep/c.jpg", "dog/d.jpg", "dog/e.JPG"]
    write_images(tmp_path / "pets", names)
    (tmp_path / "pets/cat/b.jpg").write_bytes(b"no image")
    out = f"--out={tmp_path}/f.npz"
    code, said = refused(capsys, image_run, tmp_path / "pets", out)
    assert code == 65
    assert said.startswith(f"error: {tmp_path}/pets/cat/b.jpg cannot be read (not_media: ")
    assert "--skip-bad" in said
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]
    found = extracted(image_run, tmp_path / "pets", out, "--skip-bad", "--batch-size=1")
    assert capsys.readouterr().out.endswith(
        f" of 4 files, by {image_run}, step 0; 1 could not be read, see `failed`\n"
    )
    in_order = [0, 3, 2, 4]
    assert found["paths"].tolist() == [str(tmp_path / "pets" / names[i]) for i in in_order]
    assert found["labels"].tolist() == [0, 1, 1, 1]
    assert found["class_names"].tolist() == ["cat", "dog"]
    assert found["failed"].tolist() == [str(tmp_path / "pets/cat/b.jpg")]
    np.testing.assert_allclose(found["features"], direct(image_run, found["paths"]), atol=1e-5)
    assert len(np.unique(found["features"], axis=0)) == 4


@pytest.mark.parametrize(
    ("known", "labels", "names"),
    [
        (["dog", "cat"], [1, 0], ["dog", "cat"]),
        (["cat", "cow"], [0, 1], ["cat", "dog"]),
        (None, [0, 1], ["cat", "dog"]),
    ],
)
def test_labels_are_numbered_as_the_classes_of_the_checkpoint(
    tmp_path, image_run, known, labels, names
):
    classifier = dataclasses.replace(load(image_run), class_names=known)
    save(classifier, tmp_path / "classifier", "maskfeat_jax")
    write_images(tmp_path / "pets", ["cat/a.jpg", "dog/b.jpg"])
    found = extracted(tmp_path / "classifier", tmp_path / "pets", f"--out={tmp_path}/f.npz")
    assert found["labels"].tolist() == labels
    assert found["class_names"].tolist() == names
    assert json.loads(str(found["info"]))["class_names"] == known


def test_what_a_file_of_pytorch_does_not_contain_is_reported(tmp_path, capsys):
    convert.write(small("class"), tmp_path / "hf", "hf")
    for name in ("maskfeat_jax.json", "preprocessor_config.json"):
        (tmp_path / "hf" / name).unlink()
    write_images(tmp_path / "pets", ["a.jpg"])
    found = extracted(tmp_path / "hf", tmp_path / "pets", f"--out={tmp_path}/f.npz")
    (assumed,) = json.loads(str(found["info"]))["assumed"]
    assert assumed.startswith("normalise=(mean 0.485")
    assert f"; not in the checkpoint, assumed: {assumed}" in capsys.readouterr().out


def test_nothing_but_broken_files(tmp_path, image_run, capsys):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    words = [image_run, tmp_path / "a.jpg", f"--out={tmp_path}/f.npz", "--skip-bad"]
    code, said = refused(capsys, *words)
    assert code == 65
    assert said.startswith(f"error: none of 1 files can be read: {tmp_path}/a.jpg cannot be read (")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def direct(workdir, paths, **views):
    """Features per clip of files, one at a time."""
    trained = load(workdir)
    features = Features(trained)
    step = jax.jit(features)
    view = EvalView(**{**trained.recipe["eval_view"], "clips": 1, **views})
    rows = []
    for path in map(pathlib.Path, paths):
        data = VideoFile(str(path)) if path.suffix == ".mp4" else path.read_bytes()
        clips = [view(data, np.random.default_rng(0), part) for part in range(view.clips)]
        rows.append(step(features.params, np.concatenate(clips)).mean(0))
    return np.stack(rows)


def write_videos(folder):
    """Two videos, an image, and a list of them with labels."""
    write_images(folder, ["still.jpg"])
    for name, frames in (("a.mp4", 20), ("b.mp4", 30)):
        (folder / name).write_bytes(encode_video(frames))
    (folder / "list.csv").write_text("b.mp4 2\nstill.jpg 0\na.mp4 0\n")


def test_command_takes_means_of_views_on_several_devices(tmp_path, video_run):
    write_videos(tmp_path)
    words = [video_run, tmp_path / "list.csv", f"--out={tmp_path}/f.npz", "--clips=2", "--crops=3"]
    done = subprocess.run(
        [sys.executable, "-m", "maskfeat_jax.extract", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "f.npz")
    assert found["labels"].tolist() == [2, 0, 0]
    assert found["class_names"].tolist() == ["0", "1", "2"]
    assert [os.path.basename(path) for path in found["paths"]] == ["b.mp4", "still.jpg", "a.mp4"]
    expected = direct(video_run, found["paths"], clips=2, crops=3)
    np.testing.assert_allclose(found["features"], expected, rtol=0, atol=1e-5)
    info = json.loads(str(found["info"]))
    assert info["device_count"] == 4
    assert info["axes"] == ["file", "width"]
    assert info["norm"] == "before pooling"


def test_kinds_are_those_of_the_content_and_names_are_bytes(tmp_path, video_run, capsys):
    names = sorted([os.fsdecode(b"caf\xe9.png"), "a\nb.mp4", "u\u2028", "x.jfif"])
    videos = names[:2]
    for name in names:
        data = encode_video(20, container="mpegts") if name in videos else encode(picture(0), "gif")
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "in/notes.txt").write_text("a")
    (tmp_path / "in/x.heic").write_text("a")
    out = f"--out={tmp_path}/{videos[1]}.npz"
    found = extracted(video_run, tmp_path / "in", out)
    assert capsys.readouterr().out.endswith("; 2 other files left out: .heic 1, .txt 1\n")
    assert found["paths"].tolist() == [str(tmp_path / "in" / name) for name in names]
    assert json.loads(str(found["info"]))["left_out"] == {".txt": 1, ".heic": 1}
    (tmp_path / "list.txt").write_bytes(b"\n".join(b"in/" + os.fsencode(n) for n in names[1:]))
    listed = extracted(video_run, tmp_path / "list.txt", out)
    np.testing.assert_allclose(listed["features"], found["features"][1:], rtol=0, atol=1e-5)
    one = extracted(video_run, tmp_path / "in" / names[1], out)
    np.testing.assert_allclose(one["features"], found["features"][1:2], rtol=0, atol=1e-5)
    (tmp_path / "in" / names[1]).write_text("no picture")
    code, said = refused(capsys, video_run, tmp_path / "in" / names[1], out)
    assert code == 65
    assert r"caf\udce9.png cannot be read (not_media: starts with b'no picture'" in said


def test_tokens_in_half_precision_of_one_video(tmp_path, video_run):
    write_videos(tmp_path)
    out = f"--out={tmp_path}/f.npz"
    one = extracted(video_run, tmp_path / "a.mp4", out, "--per=token", "--dtype=float16")
    trained = load(video_run)
    assert one["features"].shape == (1, *trained.model.encoder.grid(trained.clip), 32)
    assert one["features"].dtype == np.float16
    assert "labels" not in one
    clip = one["features"].astype(np.float32).mean((1, 2, 3))
    np.testing.assert_allclose(clip, direct(video_run, [tmp_path / "a.mp4"]), rtol=0, atol=1e-3)
    faster = extracted(video_run, tmp_path / "a.mp4", out, "--stride=1")["features"]
    expected = direct(video_run, [tmp_path / "a.mp4"], stride=1)
    np.testing.assert_allclose(faster, expected, rtol=0, atol=1e-5)
    assert np.abs(faster - clip).max() > 0.01


def test_a_run_on_boxes_takes_the_middle_of_files(tmp_path):
    """Its own clips are around key frames, and perhaps of whole frames."""
    run = a_run(tmp_path / "run", "demo_actions", full_frame=True)
    write_videos(tmp_path)
    found = extracted(run, tmp_path / "a.mp4", f"--out={tmp_path}/f.npz", "--clips=2")
    view = {"clips": 2, "sampling": "dense", "full_frame": False}
    expected = direct(run, [tmp_path / "a.mp4"], **view)
    np.testing.assert_allclose(found["features"], expected, rtol=0, atol=1e-5)
    info = json.loads(str(found["info"]))
    assert info["norm"] == "before pooling"
    assert {key: info["view"][key] for key in view} == view


def test_numbers_that_are_not_finite_leave_the_old_file(tmp_path, image_run, capsys):
    write_images(tmp_path, ["a.jpg"])
    weights = load(image_run)
    weights.params["norm"]["bias"][0] = 1e5
    with Checkpoints(tmp_path / "run/checkpoints") as checkpoints:
        checkpoints.save(0, {"params": weights.params}, {})
    (tmp_path / "run/config.json").write_text((image_run / "config.json").read_text())
    (tmp_path / "f.npz").write_text("old")
    words = [tmp_path / "run", tmp_path / "a.jpg", f"--out={tmp_path}/f.npz", "--dtype=float16"]
    code, said = refused(capsys, *words)
    assert code == 70
    assert "a.jpg: features are not finite in float16" in said
    assert (tmp_path / "f.npz").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.jpg"], "none.jpg: no such file or folder"),
        (["data"], "holds train, test; name one of them"),
        (["data/test"], "holds no images or videos"),
        (["data/train", "--per=frame", "--clips=2"], "--clips and --crops need --per=clip"),
        (["data/train", "--per=frame", "--pool=class"], "pool='class' is only for per='clip'"),
        (["data/train", "--crops=2"], "crops is 2; it must be 1 or 3"),
        (["data/train", "--batch-size=0"], "--batch-size=0 is not positive"),
        (["data/train", "--root=."], "a root is for lists"),
        (["data/train", "--out=/"], "--out=/ is a folder"),
        (["list.txt"], "none of the first 1 files exists"),
    ],
)
def test_wrong_use_is_reported(tmp_path, image_run, capsys, words, said):
    write_images(tmp_path / "data", ["train/a.jpg"])
    (tmp_path / "data/test").mkdir()
    (tmp_path / "list.txt").write_text("absent.jpg\n")
    path, *rest = words
    code, err = refused(capsys, image_run, tmp_path / path, f"--out={tmp_path}/f.npz", *rest)
    assert code == 78
    assert said in err


def test_what_a_checkpoint_does_not_say_is_asked_for():
    trained = trained_as(CLASSIFIER, VIT)
    with pytest.raises(RecipeError, match=r"a test does not contain the stride .* give --stride"):
        view_of(trained, clips=1, crops=1, stride=None)
    view = view_of(trained, clips=2, crops=3, stride=4)
    assert view == EvalView(size=32, frames=4, stride=4, clips=2, crops=3)
    limits = dict(max_pixels=10**8, max_frames=None, timeout_seconds=60.0)
    view = view_of(trained, clips=1, crops=1, stride=4, **limits)
    assert view == EvalView(size=32, frames=4, stride=4, max_pixels=10**8, timeout_seconds=60.0)


@pytest.mark.parametrize(
    "words", ["gs://b/run a.png --out=f", "run gs://b/a --out=f", "run a.png --out=gs://b/f.npz"]
)
def test_urls_are_refused(words, capsys):
    code, said = refused(capsys, *words.split())
    assert code == 2
    assert "is a URL; expected a path of the file system" in said
