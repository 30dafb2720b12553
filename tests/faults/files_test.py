"""A few seconds of `python -m bench.faults.files`, and the harness itself."""

from __future__ import annotations

import ast
import collections
import pickle
import shutil

import pytest

from bench.faults import isolation
from bench.faults.files import fuzz, media, names, pickles
from bench.faults.files.fuzz import FORMATS, Job, Read
from bench.faults.files.kinds import REFUSED
from tests.recipes import ROOT

ARCHIVES = ("tar, '../outside'", "tar, link", "zip, '/tmp/maskfeat-outsid'", "zip, other sizes")


def outcomes_of(jobs):
    """How many of each outcome; fails with the files that are not refused or read right."""
    bad: list[str] = []
    found = fuzz.series(jobs, bad.append)
    assert not bad, "\n".join(bad)
    return sum((of_door.outcomes for of_door in found.values()), collections.Counter())


@pytest.mark.parametrize(("name", "seed", "count"), [("videos", 600, 200), ("images", 0, 100)])
def test_damaged_media_are_read_right_or_refused(name, seed, count):
    bad: list[str] = []
    found = fuzz.series(fuzz.jobs(name, count, seed), bad.append)
    all_outcomes = sum((of_door.outcomes for of_door in found.values()), collections.Counter())
    # A consistent other file, such as one with fewer frames, is noticed by an earlier index alone.
    if name == "videos":
        with_index = found["read with an index of before a damage that keeps the time of the file"]
        assert not with_index.outcomes["wrong in silence"]
        assert with_index.kinds["stale"] > 0
    assert len(bad) <= (count / 50 if name == "videos" else 0), "\n".join(bad)
    assert sum(all_outcomes.values()) == count
    assert all_outcomes["clean stop"] > count / 4
    assert all_outcomes["recovered"] > count / 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["odd", "bombs"])
def test_media_made_by_hand_have_their_results(name):
    assert sum(outcomes_of(fuzz.jobs(name, 0)).values()) == len(FORMATS[name].files)


def test_no_pickle_runs_and_no_archive_is_unpacked():
    jobs = [*fuzz.jobs("pickles", 0)][::11]
    jobs += [Job("archives", file, door) for file in ARCHIVES for door in FORMATS["archives"].doors]
    assert outcomes_of(jobs) == {"clean stop": len(jobs)}


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_nothing_but_the_file_itself_is_opened():
    bad: list[str] = []
    outcomes, _ = names.series(bad.append)
    assert not bad
    assert outcomes == {"clean stop": 287, "recovered": 2}


def test_what_is_written_or_run_is_seen(monkeypatch):
    def unpack(path, _):
        (path.parent / "unpacked").write_text("x")
        return "not_media"

    monkeypatch.setitem(FORMATS["archives"].doors, "unpack", unpack)
    job = Job("archives", "rar", "unpack")
    read = fuzz.attempt(job)
    assert any("open" in event for event in read.trespasses)
    assert any(event.startswith("tree") for event in read.trespasses)
    assert fuzz.verdict(job, read) == "hang or damage"


@pytest.mark.parametrize("name", ["os.system", "eval", "open", "map", "numpy", "state"])
@pytest.mark.parametrize("depth", pickles.DEPTHS)
def test_payloads_are_live(name, depth, tmp_path, monkeypatch):
    """Whoever unpickles them without care runs them, and is seen."""

    def careless(path, _):
        try:
            pickle.loads(path.read_bytes())
        except TypeError:
            assert depth == "as a key"  # what comes out cannot be one
        return "ConvertError"

    monkeypatch.setitem(FORMATS["pickles"].doors, "careless", careless)
    job = Job("pickles", f"bare, protocol 4, {name}, {depth}", "careless")
    assert fuzz.verdict(job, fuzz.attempt(job)) == "hang or damage"


def test_verdicts():
    video, clip = Job("videos", "mp4", "prepared, then read"), Job("odd", "1 frame", "read")
    bomb, strip = Job("bombs", "500 streams", "read"), Job("bombs", "PNG of 2 x 60,000", "read")
    for job, outcome, judged in (
        *((video, Read(kind), "clean stop") for kind in REFUSED),
        *((video, Read(k), "recovered") for k in ("equal", "other pixels", "other size")),
        *((video, Read(kind), "wrong in silence") for kind in ("other count", "other frames")),
        (video, Read("equal", trespasses=("os.fork",)), "hang or damage"),
        (video, isolation.Died(-11), "hang or damage"),
        (video, isolation.Hung(20), "hang or damage"),
        (video, "IndexError: 3", "hang or damage"),
        (bomb, Read("too_large", "", 0.1, 3), "clean stop"),
        (bomb, Read("too_large", "", 9.0, 3), "noticed late"),
        (bomb, Read("too_large", "", 0.1, 900), "noticed late"),
        (bomb, Read("short", "", 0.1, 3), "wrong in silence"),
        (strip, Read("image", "", 0.1, 3), "recovered"),
        (strip, Read("image", "", 0.1, 900), "noticed late"),
        (clip, Read("1", "", 9.0, 3), "recovered"),
        (clip, Read("2"), "wrong in silence"),
        (Job("archives", "rar", "weights"), Read("read"), "wrong in silence"),
    ):
        assert fuzz.verdict(job, outcome) == judged, (job, outcome)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (lambda sound: sound, "equal"),
        (lambda sound: sound[:4000], "decode_error"),
        (lambda _: media.encoded(range(48), 30), "other pixels"),
        (lambda _: media.encoded([0] * 48), "other frames"),
        (lambda _: media.encoded(range(24)), "other count"),
    ],
)
def test_what_is_read_is_compared_with_the_sound_file(data, kind, monkeypatch):
    changed = data(FORMATS["videos"].files["mp4"].make())
    monkeypatch.setattr(fuzz, "content", lambda job: ("changed", changed))
    assert fuzz.attempt(Job("videos", "mp4", "read without an index")).kind == kind


@pytest.mark.parametrize(
    ("change", "kind"),
    [(lambda data: data, "equal"), (lambda data: data + bytes(9), "stale")],
    ids=["same length", "longer"],
)
def test_an_index_counts_while_a_damaged_file_keeps_its_length(change, kind, monkeypatch):
    changed = change(FORMATS["videos"].files["mp4"].make())
    monkeypatch.setattr(fuzz, "content", lambda job: ("changed", changed))
    door = "read with an index of before a damage that keeps the time of the file"
    assert fuzz.attempt(Job("videos", "mp4", door)).kind == kind


def test_trespasses_are_seen_in_a_trace():
    trace = """
1 openat(AT_FDCWD, "/tmp/traps/trap.mp4", O_RDONLY) = 3
1 newfstatat(AT_FDCWD, "/BEGIN-OF-TRACE", 0x7) = -1 ENOENT
1 openat(AT_FDCWD, "/tmp/videos/x.mp4", O_RDONLY) = 3
1 openat(AT_FDCWD, "concat:/tmp/traps/trap.mp4", O_RDONLY) = -1 ENOENT
1 openat(AT_FDCWD, "/tmp/traps/trap.mp4", O_RDONLY) = 4
1 connect(5, {sa_family=AF_INET, sin_port=htons(1), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
1 execve("/bin/sh", ["sh"], 0x7) = 0
"""
    calls = [line.split("(")[0] for line in names.trespasses(trace)]
    assert calls == ["1 openat", "1 connect", "1 execve"]


def test_no_code_of_the_project_unpacks_archives():
    rooms = (ROOT / room for room in ("input_pipeline", "maskfeat_jax"))
    for path in [ROOT / "main.py", *(path for room in rooms for path in room.rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            imported = [
                alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")
            ]
            called = getattr(getattr(node, "func", None), "attr", "")
            assert "tarfile" not in imported, path
            assert called not in ("unpack_archive", "extractall", "extract"), path
