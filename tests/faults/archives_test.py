from __future__ import annotations

import ast

import pytest

from bench.faults import archives, isolation
from tests.recipes import ROOT

SOME = ("tar, '../outside'", "tar, link", "zip, '/tmp/maskfeat-outsid'", "zip, other sizes", "rar")


def test_nothing_is_unpacked_or_written():
    bad: list[str] = []
    jobs = [(name, door, None) for name in SOME for door in archives.DOORS]
    outcomes, _ = archives.series(jobs, bad.append)
    assert not bad
    assert outcomes == {"clean stop": len(jobs)}


def test_what_is_written_is_seen(monkeypatch):
    def unpack(path):
        (path.parent / "unpacked").write_text("x")
        return "refused: too late"

    monkeypatch.setitem(archives.DOORS, "unpack", unpack)
    read = archives.attempt(("rar", "unpack", None))
    assert any("open" in event for event in read.written)
    assert any(event.startswith("tree") for event in read.written)
    assert archives.verdict(read) == "hang or damage"


@pytest.mark.parametrize(
    ("outcome", "judged"),
    [
        (archives.Read("ConvertError: no", [], 3), "clean stop"),
        (archives.Read("ConvertError: no", [], 900), "noticed late"),
        (archives.Read("not expected: TypeError: no", [], 3), "noticed late"),
        (archives.Read("read", [], 3), "wrong in silence"),
        (isolation.Died(-9), "hang or damage"),
    ],
)
def test_verdicts(outcome, judged):
    assert archives.verdict(outcome) == judged


@pytest.mark.parametrize("room", ["input_pipeline", "maskfeat_jax", "main.py"])
def test_no_code_of_the_project_unpacks_archives(room):
    place = ROOT / room
    for path in [place] if place.suffix else place.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            called = getattr(getattr(node, "func", None), "attr", "")
            assert "tarfile" not in names, path
            assert called not in ("unpack_archive", "extractall", "extract"), path
