"""A few seconds of the long runs."""

from __future__ import annotations

import pytest

from bench.faults import isolation, media
from input_pipeline.bad_inputs import CLASSES


@pytest.mark.parametrize(("what", "count"), [("videos", 150), ("images", 100)])
def test_damaged_files_give_the_right_clip_or_a_class_of_failure(what, count):
    bad: list[str] = []
    seeds = range(1, 2 * count, 2)  # videos: those beside an index
    outcomes, details = media.series(what, seeds, bad.append)
    assert not bad
    assert sum(outcomes.values()) == count
    assert outcomes["clean stop"] > count / 4
    assert outcomes["recovered"] > count / 10
    assert details["process_megabytes"] < 1500


@pytest.mark.parametrize(
    ("outcome", "judged"),
    [
        (media.Read("equal", "", 0.1), "recovered"),
        (media.Read("other pixels", "", 0.1), "recovered"),
        (media.Read("other count", "", 0.1), "wrong in silence"),
        (media.Read("other frames", "", 0.1), "wrong in silence"),
        (media.Read("other size", "", 0.1), "recovered"),
        (isolation.Died(-11), "hang or damage"),
        (isolation.Hung(20), "hang or damage"),
        ("IndexError: 3", "hang or damage"),
        *((media.Read(kind, "", 0.1), "clean stop") for kind in CLASSES),
    ],
)
def test_verdicts(outcome, judged):
    assert media.verdict(outcome) == judged


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("mp4", lambda sound: sound, "equal"),
        ("mp4", lambda sound: sound[:4000], "decode_error"),
        ("mp4", lambda _: media.encoded(range(48), 30), "other pixels"),
        ("mp4", lambda _: media.encoded([0] * 48), "other frames"),
        ("mp4", lambda _: media.encoded(range(24)), "other count"),
    ],
)
def test_what_comes_out_is_compared_with_what_was_asked_for(name, data, kind, tmp_path):
    changed = data(media.sound_videos()[name])
    assert media.read_video(tmp_path, name, changed, seed=0).kind == kind
