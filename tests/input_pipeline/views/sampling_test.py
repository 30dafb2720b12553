from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.views.sampling import SAMPLERS, Centred, Dense, Segment, Strided


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


@pytest.mark.parametrize(
    ("video_and_clip", "expected"),  # frames, frames per second, clip, clips
    [
        ("300 30 0 1", "118 122 126 130 134 139 143 147 151 155 160 164 168 172 176 181"),
        ("300 30 0 10", "0 4 8 12 16 21 25 29 33 37 42 46 50 54 58 63"),
        ("300 30 9 10", "234 238 242 246 250 255 259 263 267 271 276 280 284 288 292 297"),
        ("250 25 2 5", "98 101 104 108 111 115 118 122 125 129 132 136 139 143 146 150"),
        ("240 24 0 1", "94 97 100 104 107 110 114 117 120 124 127 130 134 137 140 144"),
        ("40 30 0 1", "0 4 8 12 16 21 25 29 33 37 39 39 39 39 39 39"),
        ("10 30 3 7", "0 4 8 9 9 9 9 9 9 9 9 9 9 9 9 9"),
    ],
)
def test_dense_clips_equal_pyslowfast(video_and_clip, expected):
    num_frames, fps, clip, clips = numbers(video_and_clip)
    assert Dense(16, 4).fixed(clip, clips, num_frames, fps).tolist() == numbers(expected)


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (100, "3 9 15 22 28 34 40 46 53 59 65 71 77 83 90 96"),
        (60, "2 5 9 13 16 20 24 28 31 35 39 42 46 50 53 57"),
        (17, "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"),
        (16, "0 1 2 3 4 5 6 7 8 8 9 10 11 12 13 14"),
        (12, "0 1 1 2 3 3 4 5 6 6 7 8 8 9 10 10"),
        (1, "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0"),
    ],
)
def test_segments_equal_pyslowfast(num_frames, expected):
    for clip in range(2):
        assert Segment(16).fixed(clip, 2, num_frames, 12).tolist() == numbers(expected)


def test_strided_clips_equal_dmvr():
    assert [Strided(32, 2).fixed(k, 4, 250, 25)[0] for k in range(4)] == [0, 62, 124, 186]
    assert [Strided(16, 4).fixed(k, 4, 300, 25)[0] for k in range(4)] == [0, 78, 157, 236]
    assert Strided(32, 2).fixed(0, 1, 250, 25)[0] == 93
    assert Strided(16, 4).fixed(0, 1, 300, 25)[0] == 118
    expected = [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 0, 4, 8, 12, 16, 20]
    assert Strided(16, 4).fixed(2, 4, 40, 25).tolist() == expected


@given(
    name=st.sampled_from(sorted(SAMPLERS)),
    frames=st.integers(1, 40),
    stride=st.integers(1, 8),
    num_frames=st.integers(1, 1000),
    fps=st.floats(5, 120),
    clips=st.integers(1, 10),
    seed=st.integers(0, 100),
)
def test_all_frames_exist(name, frames, stride, num_frames, fps, clips, seed):
    sampler = SAMPLERS[name](frames=frames, stride=1 if name == "segment" else stride)
    timing = num_frames, fps, seed  # any frame may be the key frame
    clip = sampler.random(np.random.default_rng(seed), *timing)
    fixed = [sampler.fixed(k, clips, *timing) for k in range(clips)]
    for indices in (clip, *fixed):
        assert indices.shape == (frames,)
        assert indices.dtype == np.int64
        assert indices.min() >= 0
        assert indices.max() < num_frames
        if name != "strided":
            assert (np.diff(indices) >= 0).all()


@pytest.mark.parametrize(
    ("name", "last"),
    # The start of a dense clip is a real number, rounded down: the last frame has probability 0.
    [("dense", 38), ("segment", 39), ("strided", 39)],
)
def test_random_clips_reach_the_whole_video(name, last):
    sampler = SAMPLERS[name](frames=4, stride=1)
    rng = np.random.default_rng(0)
    clips = np.stack([sampler.random(rng, 40, 30) for _ in range(2000)])
    assert clips.min() == 0
    assert clips.max() == last
    assert (np.bincount(clips.reshape(-1))[: last + 1] > 0).all()


@pytest.mark.parametrize(
    ("second", "frames", "stride", "num_frames", "expected"),
    [  # by PySlowFast, of clips whose first frame is second 900, with 30 frames per second
        (902, 16, 4, 27030, [*range(28, 92, 4)]),
        (902, 40, 3, 27030, [*range(0, 120, 3)]),
        (902, 32, 3, 27030, [*range(12, 108, 3)]),
        (902, 64, 2, 27030, [0, 0, *range(0, 124, 2)]),
        (1798, 16, 4, 27030, [*range(26908, 26972, 4)]),
        (1798, 40, 3, 27030, [*range(26880, 27000, 3)]),
        (1798, 40, 3, 26970, [*range(26880, 26970, 3), *[26969] * 10]),
        (902, 16, 4, 70, [*range(28, 72, 4), *[69] * 5]),
        (1000, 8, 8, 27030, [*range(2968, 3032, 8)]),
    ],
)
def test_centred(second, frames, stride, num_frames, expected):
    key_frame = (second - 900) * 30
    clip = Centred(frames, stride).fixed(0, 1, num_frames, 30.0, key_frame)
    assert clip.tolist() == expected
    drawn = Centred(frames, stride).random(np.random.default_rng(0), num_frames, 30.0, key_frame)
    assert drawn.tolist() == expected


def test_centred_at_other_rates():
    assert Centred(4, 3).fixed(0, 1, 100, 60.0, 50).tolist() == [38, 44, 50, 56]
    assert Centred(4, 2).fixed(0, 1, 100, 24.0, 50).tolist() == [47, 48, 50, 52]  # -3.2, -1.6
    assert Centred(1, 1).fixed(0, 1, 100, 30.0, 50).tolist() == [50]


def test_segment_has_no_stride():
    with pytest.raises(ValueError, match="stride=4"):
        Segment(16, 4)
