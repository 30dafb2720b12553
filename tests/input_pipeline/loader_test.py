from __future__ import annotations

import collections
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from input_pipeline import (
    BadInput,
    BadInputs,
    EvalView,
    Example,
    ImageFolder,
    Loader,
    Shapes,
    TrainView,
    VideoFolder,
    VideoList,
)
from input_pipeline.bad_inputs import BadMedia, Problem, TooManyBadInputs
from input_pipeline.decode.video import VideoFile
from input_pipeline.loader import example_generator, permutation
from input_pipeline.prepare import __main__ as prepare
from input_pipeline.views.clips import Cut
from input_pipeline.views.sampling import Dense
from tests.input_pipeline.samples import FakeVideo, InMemory, encode, picture
from tests.input_pipeline.video_samples import encode_video

VIEW = TrainView(size=16, rand_augment="rand-m9-mstd0.5-inc1")


def take(loader: Loader, count: int, start: int = 0) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(loader.train_batches(start), count))


def shares(source, view, batch_size: int, processes: int, seed: int = 0) -> list[Loader]:
    """The loaders of all processes."""
    settings = dict(batch_size=batch_size, seed=seed, process_count=processes)
    return [Loader(source, view, process_index=i, **settings) for i in range(processes)]


def same(batch: dict, other: dict) -> bool:
    return batch.keys() == other.keys() and all(
        np.array_equal(batch[key], other[key]) for key in batch
    )


@pytest.fixture
def source() -> InMemory:
    return InMemory([encode(picture(seed)) for seed in range(11)], ("ant", "bee", "cat"))


def test_a_batch(source):
    (batch,) = take(Loader(source, VIEW, batch_size=5), 1)
    expected = {
        "video": ((5, 1, 16, 16, 3), np.uint8),
        "label": ((5,), np.int32),
        "valid": ((5,), np.bool_),
        "index": ((5,), np.int64),
        "view": ((5,), np.int32),
    }
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == expected
    assert batch["valid"].all()
    assert np.array_equal(batch["label"], batch["index"] % 3)
    assert not batch["view"].any()
    (batch,) = take(Loader(InMemory([picture(0)] * 3), VIEW, batch_size=2), 1)
    assert "label" not in batch


@pytest.mark.parametrize("label", [-1, 3, None])
def test_a_label_that_is_no_class_is_an_error(source, label, monkeypatch):
    monkeypatch.setattr(source, "read", lambda index: Example(source.items[index], label))
    with pytest.raises(BadInput, match=f"has the label {label}, but there are 3 classes, from 0"):
        take(Loader(source, VIEW, batch_size=5), 1)


def test_an_epoch_holds_each_example_at_most_once_and_epochs_differ(source):
    loader = Loader(source, VIEW, batch_size=2)
    assert loader.steps_per_epoch == 5
    batches = take(loader, 10)
    first, second = (
        np.concatenate([batch["index"] for batch in part]) for part in (batches[:5], batches[5:])
    )
    assert len(set(first)) == len(set(second)) == 10
    assert first.tolist() != second.tolist()


def test_rows_are_a_function_of_seed_epoch_and_index(source):
    loader = Loader(source, VIEW, batch_size=3, seed=4)
    for batch, epoch in zip(take(loader, 6), (0, 0, 0, 1, 1, 1), strict=True):
        for video, index in zip(batch["video"], batch["index"], strict=True):
            assert np.array_equal(video, loader.load(epoch, int(index)).video[0])
    assert not np.array_equal(loader.load(0, 1).video, loader.load(1, 1).video)
    other = Loader(source, VIEW, batch_size=3, seed=5)
    assert not np.array_equal(loader.load(0, 1).video, other.load(0, 1).video)


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("start", [0, 1, 4, 9])
def test_neither_workers_nor_start_matter(source, workers, start):
    expected = take(Loader(source, VIEW, batch_size=4, workers=2), start + 3)[start:]
    got = take(Loader(source, VIEW, batch_size=4, workers=workers), 3, start)  # 2, 1, 1 at once
    assert all(same(batch, other) for batch, other in zip(expected, got, strict=True))


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_processes_share_out_the_global_batch(source, processes):
    expected = take(Loader(source, VIEW, batch_size=6, seed=1), 3)
    parts = [take(loader, 3) for loader in shares(source, VIEW, 6, processes, seed=1)]
    for step, batch in enumerate(expected):
        joined = {key: np.concatenate([part[step][key] for part in parts]) for key in batch}
        assert same(batch, joined)


def test_seeking_far_is_quick(source):
    loader = Loader(source, VIEW, batch_size=4)
    (batch,) = take(loader, 1, start=10**9)
    epoch = 10**9 // 2
    expected = [loader.train_read(4 * 10**9 + row) for row in range(4)]
    assert [(epoch, index, 0) for index in batch["index"]] == expected


@pytest.mark.parametrize("batch_size", [1, 4, 11, 12, 30])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_evaluation_counts_each_example_once(source, batch_size, processes):
    batch_size *= processes
    loaders = shares(source, EvalView(size=8), batch_size, processes)
    passes = [list(loader.eval_batches()) for loader in loaders]
    assert {len(batches) for batches in passes} == {-(-11 // batch_size)} == {loaders[0].eval_steps}
    rows = [batch for batches in passes for batch in batches]
    assert all(len(batch["valid"]) == batch_size // processes for batch in rows)
    valid = np.concatenate([batch["valid"] for batch in rows])
    index = np.concatenate([batch["index"] for batch in rows])
    label = np.concatenate([batch["label"] for batch in rows])
    assert sorted(index[valid]) == list(range(11))
    assert set(index[~valid]) <= {-1}
    assert np.array_equal(label[valid], index[valid] % 3)
    padding = np.concatenate([batch["video"] for batch in rows])[~valid]
    assert not padding.any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 5, "process_count": 2}, "5 is not a positive multiple of 2 processes"),
        ({"process_index": 2, "process_count": 2}, "process_index 2 is not below 2"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_refuses_what_does_not_fit(source, settings, words):
    with pytest.raises(ValueError, match=words):
        Loader(source, VIEW, **{"batch_size": 4} | settings)


def test_refuses_batches_and_iterations_that_do_not_fit(source):
    with pytest.raises(ValueError, match="batch_size 12 is more than the 11 clips"):
        Loader(source, VIEW, batch_size=12).train_batches()
    loader = Loader(source, VIEW, batch_size=4)
    with pytest.raises(ValueError, match="start_step is -1"):
        loader.train_batches(-1)
    with pytest.raises(ValueError, match='"fail" or "skip"'):
        loader.eval_batches("ignore")
    view = TrainView(size=16, frames=4, repeats=2)
    with pytest.raises(ValueError, match="3 is not a positive multiple of 1 processes x 2 clips"):
        Loader(source, view, batch_size=3)


@pytest.fixture
def spoilt(tree):
    """The tree with seven bad files of known classes among 19, listed before two change."""
    ant = tree / "train" / "ant"
    (ant / "half.jpg").write_bytes(encode(picture(90), quality=95)[:2000])
    (ant / "page.jpg").write_text("<html><body>404 Not Found</body></html>")
    (ant / "huge.jpg").write_bytes(encode(Image.new("1", (14_000, 14_000)), "png"))  # kilobytes
    for name in ("nothing", "gone", "folder"):
        (ant / f"{name}.jpg").touch()
    (ant / "dangling.jpg").symlink_to(ant / "nowhere")
    source = ImageFolder("train", path=str(tree))
    (ant / "gone.jpg").unlink()
    (ant / "folder.jpg").unlink()
    (ant / "folder.jpg").mkdir()
    return source


KINDS = {
    "half.jpg": "decode_error",
    "nothing.jpg": "empty",
    "page.jpg": "not_media",
    "huge.jpg": "too_large",
    "gone.jpg": "missing",
    "folder.jpg": "not_media",
    "dangling.jpg": "missing",
}


def test_bad_files_leave_their_slot_empty_in_training(spoilt, tmp_path):
    path = tmp_path / "bad.jsonl"
    bad_inputs = BadInputs(max_fraction=1.0).list_in(path)
    loader = Loader(spoilt, VIEW, batch_size=19, bad_inputs=bad_inputs)
    first, second = take(loader, 2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {os.path.basename(line["file"]): line["class"] for line in lines} == KINDS
    assert len(lines) == bad_inputs.files == 7
    assert bad_inputs.skipped == 14
    for batch in (first, second):
        empty = {os.path.basename(spoilt.name_of(i)) for i in batch["index"][~batch["valid"]]}
        assert empty == set(KINDS)
        assert not batch["video"][~batch["valid"]].any()
        assert sorted(batch["index"]) == list(range(19))  # the order has no holes


def test_bad_files_do_not_disturb_the_others(spoilt, tree):
    (batch,) = take(Loader(spoilt, VIEW, batch_size=19, bad_inputs=BadInputs(max_fraction=1.0)), 1)
    (tree / "train" / "ant" / "nothing.jpg").write_bytes(encode(picture(50)))
    (other,) = take(Loader(spoilt, VIEW, batch_size=19, bad_inputs=BadInputs(max_fraction=1.0)), 1)
    changed = [
        not np.array_equal(a, b) for a, b in zip(batch["video"], other["video"], strict=True)
    ]
    assert np.array_equal(batch["index"], other["index"])
    assert sum(changed) == 1


def test_evaluation_stops_at_a_bad_file_and_names_it(spoilt):
    loader = Loader(spoilt, EvalView(size=8), batch_size=2)
    with pytest.raises(BadInput, match=r"dangling\.jpg cannot be used \(missing: FileNotFound"):
        list(loader.eval_batches())


def test_evaluation_can_skip_bad_files(spoilt):
    loader = Loader(spoilt, EvalView(size=8), batch_size=4)
    batches = list(loader.eval_batches("skip"))
    assert sum(batch["valid"].sum() for batch in batches) == 12
    assert loader.bad_inputs.skipped == 7
    index = np.concatenate([batch["index"] for batch in batches])
    assert index[index >= 0].tolist() == list(range(19))


@pytest.fixture(scope="module")
def videos() -> dict[int, bytes]:
    return {frames: encode_video(frames) for frames in (10, 20)}


@pytest.fixture
def indexed(tmp_path, videos):
    """Files 0.mp4 to 2.mp4 of 10 frames, with an index; then 1.mp4 is replaced by 20 frames."""
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(videos[10])
    (tmp_path / "train.csv").write_text("0.mp4 0\n1.mp4 1\n2.mp4 0\n")
    prepare.main([str(tmp_path), str(tmp_path), "--workers=0"])
    (tmp_path / "1.mp4").write_bytes(videos[20])
    return tmp_path


class Count:
    """A view that returns the number of frames, as each pixel."""

    shape, reads, clips_per_read, sampling = (1, 1, 1, 3), 1, 1, "dense"

    def cut(self, data, rng, read):
        with data.open() as video:
            pixels = np.full((1, *self.shape), video.num_frames, np.uint8)
        return Cut(pixels, [])


@pytest.mark.parametrize("dataset", [VideoFolder, VideoList])
def test_training_reads_a_file_that_was_replaced_without_its_index(indexed, dataset):
    bad_inputs = BadInputs(max_fraction=0.0).list_in(indexed / "bad_inputs.jsonl")
    loader = Loader(dataset(path=str(indexed)), Count(), batch_size=3, bad_inputs=bad_inputs)
    with pytest.warns(RuntimeWarning, match=r"1 files so far are not those of the index.*1\.mp4: "):
        batches = take(loader, 2)
    for batch in batches:
        assert batch["valid"].all()
        frames = dict(zip(batch["index"].tolist(), batch["video"].max((1, 2, 3, 4)), strict=True))
        assert frames == {0: 10, 1: 20, 2: 10}
    (line,) = map(json.loads, bad_inputs.path.read_text().splitlines())
    assert (line["file"], line["class"]) == (str(indexed / "1.mp4"), "stale")
    assert "bytes, but had" in line["reason"]
    assert (bad_inputs.skipped, bad_inputs.files) == (0, 0)
    BadInputs().list_in(bad_inputs.path).record(line["file"], 1, Problem("stale", "", None))
    assert len(bad_inputs.path.read_text().splitlines()) == 1  # a run that goes on


def test_evaluation_refuses_a_file_that_was_replaced(indexed):
    loader = Loader(VideoList(path=str(indexed)), Count(), batch_size=3)
    words = r"1\.mp4 cannot be used \(stale: .*bytes, but had.*run python -m input_pipeline.prepare"
    with pytest.raises(BadInput, match=words):
        list(loader.eval_batches())
    (batch,) = loader.eval_batches("skip")
    assert batch["valid"].tolist() == [True, False, True]
    assert loader.bad_inputs.skipped == 1
    prepare.main([str(indexed), str(indexed), "--workers=0"])
    loader = Loader(VideoList(path=str(indexed)), Count(), batch_size=3)
    (batch,) = loader.eval_batches()
    assert batch["video"][:, 0, 0, 0, 0].tolist() == [10, 20, 10]


def test_an_entry_holds_for_the_size_and_the_time_of_its_file(indexed, videos):
    source = VideoFolder(path=str(indexed))
    file = indexed / "0.mp4"
    seconds = file.stat().st_mtime_ns // 10**9 * 10**9
    os.utime(file, ns=(seconds, seconds))  # as an archive keeps it
    assert source.read(0).data == VideoFile(str(file), 10, 25.0)
    for time in (seconds + 10**9, seconds - 10**9):
        os.utime(file, ns=(time, time))
        assert "time of modification" in source.read(0).data.stale
    (indexed / "1.mp4").unlink()
    (indexed / "1.mp4").symlink_to("there.mp4")
    (indexed / "2.mp4").write_bytes(b"")
    prepare.main([str(indexed), str(indexed), "--workers=0"])
    source = VideoFolder(path=str(indexed))
    for index, kind in ((1, "missing"), (2, "empty")):
        with pytest.raises(BadMedia, match=kind):
            source.read(index)
    (indexed / "there.mp4").write_bytes(videos[20])
    (indexed / "2.mp4").write_bytes(videos[20])
    for index in (1, 2):  # bad when they were indexed
        with source.read(index).data.open() as video:
            assert video.num_frames == 20


def test_a_dead_mount_stops_training(tree):
    source = ImageFolder("train", path=str(tree))
    loader = Loader(source, VIEW, batch_size=4, bad_inputs=BadInputs(max_consecutive=20))
    batches = loader.train_batches()
    next(batches)
    (tree / "train").rename(tree / "unmounted")
    with pytest.raises(TooManyBadInputs, match=r"20 clips in a row cannot be read.*missing"):
        collections.deque(itertools.islice(batches, 20))


def test_errors_that_are_not_bad_files_come_out_as_they_are():
    class BrokenView(TrainView):
        def cut(self, data, rng, read):
            raise ZeroDivisionError("a mistake of ours")

    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        take(Loader(Shapes(), BrokenView(size=16), batch_size=4), 1)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_changed_bytes_never_crash_and_are_counted_exactly(kind):
    rng = np.random.default_rng(0)
    items = []
    for seed in range(200):
        data = bytearray(encode(picture(seed % 5), kind))
        for offset in rng.integers(0, len(data), size=rng.integers(1, 30)):
            data[offset] = rng.integers(0, 256)
        items.append(bytes(data))
    bad_inputs = BadInputs(max_fraction=1.0, max_consecutive=10**6)
    loader = Loader(InMemory(items), TrainView(size=16), batch_size=50, bad_inputs=bad_inputs)
    batches = take(loader, 4)
    empty = sum((~batch["valid"]).sum() for batch in batches)
    assert bad_inputs.skipped == bad_inputs.files == empty
    assert 0 < empty <= 200
    assert sum(batch["video"].any(axis=(1, 2, 3, 4)).sum() for batch in batches) <= 200 - empty


# In a process of its own. TensorFlow itself imports JAX where it is installed, so it is made
# impossible here.
IN_A_FRESH_PROCESS = """
import gc, sys, threading
sys.modules["jax"] = sys.modules["torch"] = sys.modules["maskfeat_jax"] = None
from input_pipeline import Loader, Shapes, TrainView
print("imported", "tensorflow" in sys.modules)
loader = Loader(Shapes(), TrainView(size=16), batch_size=8, workers=4)
def leave(steps):
    for step in range(steps):
        batches = loader.train_batches(step)
        next(batches)
        cycle = [batches]
        cycle.append(cycle)  # left to the garbage collector, which runs in any thread
gc.set_threshold(20)
leave(40)
thread = threading.Thread(target=leave, args=(10,))
thread.start()
thread.join()
import tensorflow as tf
print("sees", *{device.device_type for device in tf.config.get_visible_devices()})
kept = [loader.train_batches()]
next(kept[0])
tf.function(kept.clear)()  # left while TensorFlow traces
kept = [loader.train_batches(step) for step in range(3)]
print("rows", [len(next(batches)["index"]) for batches in kept])
"""


@pytest.mark.parametrize("end", ["", "raise SystemExit('leaving')"])
def test_iterators_may_be_left_at_any_time_without_jax_and_accelerators(end):
    # Deleting a running tf.data iterator can lock up the process, at its end too.
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS + end],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines() == ["imported False", "sees CPU", "rows [8, 8, 8]"], done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == bool(end)
    assert not end or done.stderr.strip().splitlines()[-1] == "leaving"


def test_clips_of_one_reading_follow_each_other():
    videos = InMemory([FakeVideo(50 + k) for k in range(5)], ("ant", "bee"))
    view = TrainView(size=16, frames=4, stride=2, repeats=3, new_frames=True)
    loader = Loader(videos, view, batch_size=6)
    assert (loader.steps_per_epoch, loader.views) == (2 / 3, 3)
    for batch in take(loader, 3):
        assert batch["video"].shape == (6, 4, 16, 16, 3)
        assert batch["view"].tolist() == [0, 1, 2, 0, 1, 2]
        assert (batch["index"][::3].repeat(3) == batch["index"]).all()
        assert (batch["label"] == batch["index"] % 2).all()
        starts = batch["video"][:, 0, 0, 0, 0].reshape(2, 3)
        assert all(len(set(row)) > 1 for row in starts.tolist())


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("clips", "crops"), [(1, 1), (5, 1), (1, 3), (4, 3)])
def test_evaluation_holds_each_view_once_in_order(processes, clips, crops):
    videos = InMemory([FakeVideo(64 + 8 * k) for k in range(5)], ("ant", "bee"))
    view = EvalView(size=16, resize=16, frames=4, stride=2, clips=clips, crops=crops)
    parts = [list(one.eval_batches()) for one in shares(videos, view, 12 * processes, processes)]
    batches = [part[step] for step in range(len(parts[0])) for part in parts]
    rows = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    views = clips * crops
    assert rows["index"][rows["valid"]].tolist() == [i for i in range(5) for _ in range(views)]
    assert rows["view"][rows["valid"]].tolist() == list(range(views)) * 5
    assert (rows["index"][~rows["valid"]] == -1).all()
    for index, number, video in zip(rows["index"], rows["view"], rows["video"], strict=True):
        if index >= 0:
            expected = Dense(4, 2).fixed(number // crops, clips, 64 + 8 * index, 30)
            assert video[:, 0, 0, 0].tolist() == expected.tolist()


def test_a_bad_video_leaves_all_its_clips_empty():
    videos = InMemory([FakeVideo(), b"", FakeVideo(), FakeVideo()], ("ant", "bee"))
    bad = BadInputs(max_fraction=1)
    view = TrainView(size=16, frames=4, repeats=2)
    batches = take(Loader(videos, view, batch_size=4, bad_inputs=bad), 6)
    for batch in batches:
        assert (batch["valid"] == (batch["index"] != 1)).all()
        assert not batch["video"][~batch["valid"]].any()
    assert bad.files == 1
    view = EvalView(size=16, frames=4, clips=2)
    with pytest.raises(BadInput, match="memory/1"):
        list(Loader(videos, view, batch_size=4).eval_batches())


@pytest.mark.parametrize(("repeats", "batch_size", "steps"), [(1, 4, 2), (2, 4, 5), (3, 6, 5)])
def test_a_pass_is_as_many_epochs_as_clips_of_each_example(repeats, batch_size, steps):
    videos = InMemory([FakeVideo(50 + k) for k in range(11)])
    view = TrainView(size=16, frames=4, repeats=repeats)
    loader = Loader(videos, view, batch_size=batch_size)
    assert loader.steps_per_epoch == steps / repeats
    reads = [loader.train_read(position) for position in range(steps * batch_size // repeats)]
    assert len({read.example for read in reads}) == len(reads)
    assert {read.pass_index for read in reads} == {0}
    assert loader.train_read(len(reads)).pass_index == 1


SEEDS = st.integers(0, 2**63 - 1)


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, epoch=st.integers(0, 10**6), num_examples=st.integers(1, 2000))
def test_each_example_comes_once_and_the_same_again(seed, epoch, num_examples):
    once = permutation(seed, epoch, num_examples)
    assert np.array_equal(np.sort(once), np.arange(num_examples))
    assert np.array_equal(once, permutation(seed, epoch, num_examples))


def test_seeds_epochs_and_examples_have_their_own_numbers():
    orders = [permutation(seed, epoch, 100) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert len({tuple(one) for one in orders}) == 9
    draws = {
        (seed, epoch, index): tuple(example_generator(seed, epoch, index).random(4))
        for seed in (0, 1)
        for epoch in (0, 1)
        for index in (0, 1, 2**40)
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[1, 0, 1] == tuple(example_generator(1, 0, 1).random(4))


def test_numbers_of_neighbours_are_independent():
    draws = np.array([example_generator(3, 0, index).random(2) for index in range(4000)])
    correlation = np.corrcoef(np.concatenate([draws[:-1], draws[1:]], axis=1).T)
    assert np.abs(correlation - np.eye(4)).max() < 0.06


def test_order_does_not_depend_on_the_version_of_numpy():
    # A run that is resumed with another NumPy must go on in the same order.
    assert permutation(7, 2, 8).tolist() == [4, 1, 3, 7, 6, 2, 0, 5]
    assert example_generator(7, 2, 5).integers(1000, size=4).tolist() == [735, 120, 985, 903]
