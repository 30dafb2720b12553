from __future__ import annotations

import shutil

import pytest

from bench.faults.other_opens import traced, trespasses


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_nothing_but_the_file_itself_is_opened():
    found, over, calls, _ = traced()
    assert over == []
    assert calls == 0
    assert len(found) > 200
    clips = {name.rsplit("/")[-1] for name, kind in found if kind == "clip"}
    assert clips == {"outside.mp4"}


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
    assert [line.split("(")[0] for line in trespasses(trace)] == [
        "1 openat",
        "1 connect",
        "1 execve",
    ]
