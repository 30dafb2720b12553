from __future__ import annotations

import os

import numpy as np
import pytest

from input_pipeline.datasets import drawn_videos, moving_shapes
from input_pipeline.datasets.moving_shapes import MovingShapes
from tests.input_pipeline.samples import ridge_accuracy
from tests.input_pipeline.video_samples import decode_all

SIZE, FRAMES, CLASSES = 32, 16, 8


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> MovingShapes:
    path = str(tmp_path_factory.mktemp("moving_shapes"))
    return MovingShapes(path=path, num_examples=640, size=SIZE, frames=FRAMES)


@pytest.fixture(scope="module")
def videos(source) -> np.ndarray:
    return np.stack([decode(source, index) for index in range(source.num_examples)])


def decode(source: MovingShapes, index: int) -> np.ndarray:
    return decode_all(source.read(index).data)


def test_files_are_videos_with_key_frames_and_all_frames(source):
    with source.read(3).data.open() as video:
        assert (video.num_frames, video.height, video.width) == (FRAMES, SIZE, SIZE)
        assert video.fps == 12
    assert source.name_of(3).endswith(os.path.join("train", "000003.mp4"))


def test_decoded_frames_are_what_was_drawn(source, videos):
    down = source.class_names.index("down")
    # In grey, as colours are coded at half the resolution.
    drawn, decoded = (v.astype(float).mean(-1) for v in (source.draw(down), videos[down]))
    error = np.mean((decoded - drawn) ** 2, axis=(1, 2))
    assert (10 * np.log10(255**2 / error) > 28).all()  # PSNR in dB
    for steps in (-3, 3):
        moved = np.mean((np.roll(decoded, steps, axis=0) - drawn) ** 2, axis=(1, 2))
        assert (moved > 1.1 * error).all()  # frames are in order


def test_pictures_are_a_function_of_seed_split_and_index(source, tmp_path):
    settings = dict(num_examples=4, size=SIZE, frames=FRAMES)
    again = MovingShapes(path=str(tmp_path), **settings)
    others = [
        MovingShapes("test", path=str(tmp_path), **settings),
        MovingShapes(path=str(tmp_path), seed=1, **settings),
    ]
    for index in range(4):
        assert np.array_equal(decode(source, index), decode(again, index))
        for other in others:
            assert not np.array_equal(decode(again, index), decode(other, index))
    assert len({s.fingerprint for s in (source, again, *others)}) == 4  # `source` is longer


def test_classes_come_in_turn(source):
    labels = [source.read(index).label for index in range(24)]
    assert np.bincount(labels).tolist() == [3] * CLASSES
    assert source.class_names == tuple(sorted(source.class_names))


@pytest.mark.parametrize("label", range(CLASSES))
def test_state_is_uniform_in_each_frame(label):
    """One state of one frame over many videos, against the uniform law (Kolmogorov-Smirnov)."""
    motion = list(moving_shapes._MOTIONS.values())[label]
    rng = np.random.default_rng(label)
    time = np.arange(FRAMES)[:, None]
    states = np.stack([(rng.uniform(size=4) + motion(rng, time)) % 1 for _ in range(2000)])
    expected = (np.arange(2000) + 0.5) / 2000
    distance = np.abs(np.sort(states, axis=0) - expected[:, None, None]).max(axis=0)
    assert distance.max() < 2.1 / np.sqrt(2000)  # exceeded once in 3000 tries by chance


def one_frame(pixels: np.ndarray) -> np.ndarray:
    """Pixels, colours and strengths of edges of single frames."""
    grey = pixels.astype(float).mean(-1)
    edges = np.abs(np.stack([np.diff(grey, axis=1)[:, :, 1:], np.diff(grey, axis=2)[:, 1:]], -1))
    colours = np.concatenate([pixels.mean((1, 2)), pixels.std((1, 2))], 1)
    coarse = grey.reshape(-1, 8, 4, 8, 4).mean((2, 4)).reshape(len(grey), -1)
    return np.concatenate([colours, coarse, edges.mean((1, 2)), edges.std((1, 2))], 1)


def motion(video: np.ndarray) -> np.ndarray:
    """How well a shift, a turn and a zoom around what changes explain the changes, in time."""
    grey = video.astype(float).mean(-1)
    change = np.diff(grey, axis=0)
    middle = (grey[1:] + grey[:-1]) / 2
    down, right = np.gradient(middle, axis=(1, 2))
    where = np.abs(change)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.0
    total = where.sum((1, 2)) + 1e-6
    y, x = (v - ((where * v).sum((1, 2)) / total)[:, None, None] for v in (y, x))
    flows = [down, right, y * right - x * down, y * down + x * right]
    energy = (np.hypot(down, right) * where).sum((1, 2)) + 1e-6
    amounts = np.stack([-(change * flow).sum((1, 2)) / energy for flow in flows])
    means = amounts.mean(1)
    return np.concatenate([means, np.abs(means), amounts.std(1), np.abs(amounts).mean(1)])


def test_one_frame_does_not_tell_the_class_and_motion_does(videos):
    labels = np.arange(len(videos)) % CLASSES
    chance = 1 / CLASSES  # 160 are tested: its standard deviation is 0.026
    for frame in (0, FRAMES // 2, FRAMES - 1):
        assert ridge_accuracy(one_frame(videos[:, frame]), labels, 0.1) < chance + 0.08
    assert ridge_accuracy(np.stack([motion(video) for video in videos]), labels, 0.1) > 0.5


@pytest.fixture(scope="module")
def travels(tmp_path_factory) -> MovingShapes:
    path = str(tmp_path_factory.mktemp("travels"))
    return MovingShapes(path=path, num_examples=160, size=SIZE, frames=4, outlines=True)


def test_classes_with_outlines_are_outline_and_direction(travels):
    assert travels.class_names[:3] == ("arrow_left", "arrow_right", "bars_left")
    assert travels.class_names == tuple(sorted(travels.class_names))
    assert [travels.read(index).label for index in (0, 19, 20)] == [0, 19, 0]
    assert len(travels.class_names) == 20
    assert not travels.flippable


def test_outlines_travel_in_the_direction_of_their_class(travels):
    shifts = np.arange(6, 13)  # pixels in three frames
    hits = 0
    for index in range(travels.num_examples):
        first, *_, last = decode(travels, index).astype(float)
        left, right = (
            min(np.abs(np.roll(first, sign * shift, axis=1) - last).mean() for shift in shifts)
            for sign in (-1, 1)
        )
        hits += (right < left) == travels.class_names[index % 20].endswith("right")
    assert hits > 0.9 * travels.num_examples


def test_one_frame_does_not_tell_the_direction_of_outlines(travels):
    drawn = np.stack([travels.draw(index) for index in range(1200)])
    directions = np.arange(len(drawn)) % 2
    for frame in (0, 3):  # 300 are tested: the standard deviation of chance is 0.029
        assert ridge_accuracy(one_frame(drawn[:, frame]), directions, 0.1) < 0.5 + 0.1


def test_an_interrupted_making_goes_on(tmp_path, monkeypatch):
    settings = dict(path=str(tmp_path), num_examples=12, size=SIZE, frames=4)
    encode = drawn_videos._encode

    def fail_on_seventh(frames, path, rate):
        encode(frames, path, rate)
        if path.name.startswith("000006"):
            raise OSError("No space left on device")

    monkeypatch.setattr(drawn_videos, "_encode", fail_on_seventh)
    with pytest.raises(OSError, match="No space left"):
        MovingShapes(**settings)
    (folder,) = tmp_path.glob("*/train")
    names = set(os.listdir(folder))
    assert "000006.mp4" not in names
    assert all(name.endswith(".mp4") for name in names)

    encoded = []
    monkeypatch.setattr(
        drawn_videos, "_encode", lambda f, p, rate: encoded.append(p) or encode(f, p, rate)
    )
    source = MovingShapes(**settings)
    assert len(encoded) == 12 - len(names)
    assert sorted(os.listdir(folder)) == [f"{index:06d}.mp4" for index in range(12)]
    assert decode(source, 6).shape == (4, SIZE, SIZE, 3)
