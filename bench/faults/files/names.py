"""Play lists, names with protocols, pipes, devices, links: only the file itself is opened.

The system calls of the process that reads are traced with strace, as FFmpeg's cannot be heard from
Python: what it opens among the traps that lie around, and every connection. A local server counts
who calls it.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.faults import results

SUFFIXES = ("mp4", "mkv", "avi", "webm", "mov", "ts", "wmv")
SECONDS = 120
RIGHT = "outside.mp4"  # names another file for its frames, which it has itself
FAULT = "E7"
WHAT = "play lists, names with protocols, pipes, devices, links, frames in other files"
NOTE = (
    "refused and counted; no other file opened and nobody called, by strace and a server. "
    f"Recovered: {RIGHT}, which names another file for its frames and has them itself"
)
# Names that FFmpeg would take for more than a file; TRAP is a video, PORT of the local server.
NAMES = (
    "http://127.0.0.1:PORT/x.mp4",
    "https://127.0.0.1:PORT/x.mp4",
    "rtmp://127.0.0.1:PORT/x.mp4",
    "tcp://127.0.0.1:PORT",
    "udp://127.0.0.1:PORT",
    "gopher://127.0.0.1:PORT/x.mp4",
    "hls+http://127.0.0.1:PORT/x.mp4",
    "file:TRAP",
    "file://TRAP",
    "concat:TRAP|TRAP",
    "concatf:TRAP",
    "subfile,,start,0,end,99,,:TRAP",
    "crypto:TRAP",
    "cache:TRAP",
    "async:TRAP",
    "md5:TRAP",
    "unix:TRAP",
    "pipe:0",
    "fd:0",
    "data:video/mp4;base64,AAAA",
    "-",
    "x%03d.mp4",
    "*.mp4",
    "~/x.mp4",
    "$HOME/x.mp4",
    "`touch CANARY`.mp4",
    "$(touch CANARY).mp4",
    "|touch CANARY",
    "x.mp4\nTRAP",
)
LISTS = (
    "#EXTM3U\n#EXTINF:1,\nTRAP\n",
    "#EXTM3U\n#EXTINF:1,\nfile://TRAP\n",
    "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:PORT/x.mp4\n",
    '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="TRAP"\n#EXTINF:1,\nTRAP\n',
    '#EXTM3U\n#EXT-X-MAP:URI="TRAP"\n#EXTINF:1,\nTRAP\n',
    "#EXTM3U\n#EXTINF:1,\nconcat:TRAP|TRAP\n",
    "ffconcat version 1.0\nfile TRAP\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video PORT RTP/AVP 96\n",
    '<?xml version="1.0"?><MPD><Period><BaseURL>http://127.0.0.1:PORT/</BaseURL></Period></MPD>',
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file://TRAP">]><a>&b;</a>',
    "[playlist]\nFile1=TRAP\n",
    "RTSPtextRTSP://127.0.0.1:PORT/x",
    "<asx><entry><ref href='http://127.0.0.1:PORT/x'/></entry></asx>",
)


def make(folder: pathlib.Path, port: int) -> list[str]:
    """Lays out the traps and the files; returns what is to be read."""
    from tests.input_pipeline.video_samples import encode_video

    sound = encode_video(4)
    trap, canary = folder / "traps" / "trap.mp4", folder / "traps" / "canary"
    trap.parent.mkdir()
    trap.write_bytes(sound)

    def filled(text: str) -> str:
        text = text.replace("TRAP", str(trap)).replace("PORT", str(port))
        return text.replace("CANARY", str(canary))

    place = folder / "videos"
    place.mkdir()
    names = [filled(name) for name in NAMES]
    for number, text in enumerate(LISTS):
        for suffix in (*SUFFIXES, "m3u8"):
            (place / f"{number}.{suffix}").write_text(filled(text))
            names.append(str(place / f"{number}.{suffix}"))
    # An MP4 file that says its frames are in another file.
    at = sound.index(b"url ") + 4
    outside = sound[:at] + bytes(4) + sound[at + 4 :]
    (place / RIGHT).write_bytes(outside)
    names.append(str(place / RIGHT))
    os.mkfifo(place / "pipe.mp4")
    (place / "folder.mp4").mkdir()
    for number, target in enumerate(("/dev/zero", "/dev/random", place / "pipe.mp4", place)):
        (place / f"link{number}.mp4").symlink_to(target)
    names += [str(place / name) for name in ("pipe.mp4", "folder.mp4")]
    names += [str(place / f"link{number}.mp4") for number in range(4)]
    return [*names, "/dev/zero", "/dev/tty", "/proc/self/mem", "/proc/self/fd/0", "/proc/kmsg"]


def read_all(names: list[str]) -> Iterator[tuple[str, str]]:
    """Reads each by its name, and as a line of a list; class of failure, or "clip"."""
    from input_pipeline import EvalView, Loader, VideoList
    from input_pipeline.bad_inputs import BadMedia
    from input_pipeline.decode.video import VideoFile

    view = EvalView(size=16, frames=2)
    view(VideoFile("sound.mp4"), None)  # what is loaded on first use does not count
    os.path.exists("/BEGIN-OF-TRACE")
    for name in names:
        try:
            view(VideoFile(name), None)
            yield name, "clip"
        except BadMedia as bad:
            yield name, bad.kind
    lines = [name for name in names if "\n" not in name]
    pathlib.Path("list.csv").write_text("sound.mp4 0\n" + "".join(f"{n} 0\n" for n in lines))
    source = VideoList(path="list.csv")
    loader = Loader(source, view, batch_size=1)
    for index in range(1, source.num_examples):
        problem = loader.load(0, index).problem
        yield source.name_of(index), "clip" if problem is None else problem.kind


def trespasses(trace: str) -> list[str]:
    """Calls of a trace, after its begin, that open a trap, run something or use the network."""
    calls = trace[trace.index("BEGIN-OF-TRACE") :].splitlines()
    return [line for line in calls if re.search(r"execve|sin_addr|sin6|/traps/.*= \d", line)]


def series(log: Callable[[str], None] = print) -> tuple[dict[str, int], dict[str, Any]]:
    """Outcomes; details: counts by class, seconds."""
    from tests.input_pipeline.video_samples import encode_video

    calls = 0
    with tempfile.TemporaryDirectory() as temporary, socket.create_server(("127.0.0.1", 0)) as ear:
        folder = pathlib.Path(temporary)

        def listen() -> None:
            nonlocal calls
            with contextlib.suppress(OSError):
                while True:
                    ear.accept()[0].close()
                    calls += 1

        threading.Thread(target=listen, daemon=True).start()
        names = make(folder, ear.getsockname()[1])
        work = folder / "work"
        work.mkdir()
        (work / "sound.mp4").write_bytes(encode_video(4))
        (work / "names.json").write_text(json.dumps(names))
        trace = folder / "trace"
        command = [sys.executable, "-m", "bench.faults.files.names"]
        strace = shutil.which("strace")
        if strace:
            which = "--trace=openat,connect,execve,stat,newfstatat"
            command = [strace, "-f", "-qq", "-o", str(trace), which, *command]
        start = time.monotonic()
        run = subprocess.run(
            command,
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(results.ROOT)},
            stdin=subprocess.PIPE,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        seconds = time.monotonic() - start
        found = json.loads(run.stdout.splitlines()[-1])
        bad = trespasses(trace.read_text()) if strace else ["strace is not there"]
        bad += ["a command was run"] * (folder / "traps" / "canary").exists()
    bad += [f"{calls} calls of the server"] * bool(calls)
    bad += [f"{name} was read" for name, kind in found if kind == "clip" and RIGHT not in name]
    for line in bad:
        log(line)
    kinds = collections.Counter(kind for _, kind in found)
    outcomes = {"clean stop": len(found) - kinds["clip"], "recovered": kinds["clip"]}
    details = {"classes": dict(kinds), "seconds": round(seconds, 1)}
    return {"hang or damage": len(found)} if bad else outcomes, details


if __name__ == "__main__":
    print(json.dumps(list(read_all(json.loads(pathlib.Path("names.json").read_text())))))
