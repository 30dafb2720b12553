"""Hostile archives wherever a user may name a file: nothing is unpacked, nothing written.

No code of the project unpacks archives; files of `torch.save` are zip archives that PyTorch reads
in place.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import pathlib
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

from bench.faults.files.kinds import File, Format, load
from input_pipeline import DATASETS, EvalView
from input_pipeline.datasets.media import media_source
from input_pipeline.prepare import __main__ as prepare
from maskfeat_jax import convert
from maskfeat_jax.sections import choose

OUTSIDE = ("../outside", "/tmp/maskfeat-outside", "a/../../outside", "..\\outside", "C:\\outside")
OUTSIDE += ("~/outside", "a" * 5000, "nul\0name", "x\x1b[31m", "con.txt")


def tar(*members: tuple[str, bytes, dict[str, Any]], mode: str = "w") -> bytes:
    """A tar archive of any members: name, content, fields."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.GNU_FORMAT) as archive:
        for name, data, fields in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def packed(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")  # names that come twice
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return file.getvalue()


def linked_zip() -> bytes:
    """A symbolic link out, and a member behind it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/tmp")
        archive.writestr("link/outside", b"x")
    return file.getvalue()


def wrong_sizes() -> bytes:
    """A zip archive that says its member is 4 GB."""
    data = bytearray(packed(("x/data.pkl", b"x" * 100), compression=zipfile.ZIP_STORED))
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = b"\xfe\xff\xff\xff"
    data[central + 20 : central + 24] = b"\xfe\xff\xff\xff"
    return bytes(data)


def overlapping() -> bytes:
    """Many names for the same bytes."""
    one = packed(*((f"m{i}", b"x") for i in range(200)), compression=zipfile.ZIP_STORED)
    data, at = bytearray(one), one.index(b"PK\x01\x02")
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        data[at + 42 : at + 46] = bytes(4)
        at += 46
    return bytes(data)


KINDS = {
    "hard link": {"type": tarfile.LNKTYPE, "linkname": "../outside"},
    "link": {"type": tarfile.SYMTYPE, "linkname": "/tmp"},
    "device": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
    "FIFO": {"type": tarfile.FIFOTYPE},
    "setuid": {"mode": 0o4777},
}
PICKLE = ("x/data.pkl", b"\x80\x02}q\x00.")
_ARCHIVES: dict[str, Callable[[], bytes]] = {
    **{f"tar, {n[:20]!r}": functools.partial(tar, (n, b"x", {})) for n in OUTSIDE if "\0" not in n},
    **{f"tar, {kind}": functools.partial(tar, ("x", b"", f)) for kind, f in KINDS.items()},
    "tar, through a link": lambda: tar(("x", b"", KINDS["link"]), ("x/outside", b"x", {})),
    "tar.gz": lambda: tar(("../outside", b"x", {}), mode="w:gz"),
    "tar.xz": lambda: tar(("../outside", b"x", {}), mode="w:xz"),
    "tar, twice the same name": lambda: tar(("x", b"1", {}), ("X", b"2", {}), ("x", b"3", {})),
    "tar, 20,000 members": lambda: tar(*((f"{i}", b"", {}) for i in range(20_000))),
    "tar, other size": lambda: tar(("x", b"1", {})).replace(b"00000000001\0", b"77777777777\0", 1),
    "tar in tar": lambda: functools.reduce(lambda t, _: tar(("x.tar", t, {})), range(30), b""),
    "gzip of 500 MB": lambda: gzip.compress(bytes(500_000_000), 9),
    **{f"zip, {name[:20]!r}": functools.partial(packed, (name, b"x"), PICKLE) for name in OUTSIDE},
    "zip, link": linked_zip,
    "zip, 500 MB in one member": lambda: packed(("x/data.pkl", bytes(500_000_000))),
    "zip, twice the same name": lambda: packed(PICKLE, ("x/data.pkl", b"other")),
    "zip, 20,000 members": lambda: packed(*((f"{i}", b"") for i in range(20_000))),
    "zip, other sizes": wrong_sizes,
    "zip, overlapping members": overlapping,
    "zip in zip": lambda: functools.reduce(lambda z, _: packed(("x.zip", z)), range(30), b""),
    "zip, encrypted": lambda: packed(PICKLE).replace(
        b"PK\x01\x02\x14\0\x14\0\0\0", b"PK\x01\x02\x14\0\x14\0\1\0"
    ),
    "zip, after a program": lambda: b"#!/bin/sh\n" + packed(("../outside", b"x"), PICKLE),
    "7z": lambda: b"7z\xbc\xaf\x27\x1c" + bytes(500),
    "rar": lambda: b"Rar!\x1a\x07\x01\0" + bytes(500),
}


def weights(suffix: str) -> Callable[[pathlib.Path, str], str]:
    """As `convert FILE` and `model.init_from`."""

    def read(path: pathlib.Path, _: str) -> str:
        convert.load_torch(path.rename(path.with_suffix(suffix or path.suffix)))
        return "read"

    return read


def _data(name: str) -> Callable[[pathlib.Path, str], str]:
    """As `data.path`."""

    def read(path: pathlib.Path, _: str) -> str:
        choose("data", DATASETS, {"name": name, "path": str(path)})
        return "read"

    return read


def _media(suffix: str, name: str) -> Callable[[pathlib.Path, str], str]:
    """As one of the images or videos of a folder."""

    def read(path: pathlib.Path, _: str) -> str:
        path = path.rename(path.with_suffix(suffix))
        load(DATASETS[name](path=str(path.parent)), EvalView(size=16))
        return "read"

    return read


def _extract(path: pathlib.Path, _: str) -> str:
    """As `python -m maskfeat_jax.extract RUN FILE`."""
    load(media_source(path), EvalView(size=16))
    return "read"


def _prepare(path: pathlib.Path, _: str) -> str:
    """As `python -m input_pipeline.prepare FILE OUT`."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            prepare.main([str(path), str(path.parent / "out")])
        except SystemExit as end:
            raise SystemExit(f"{end.code} {said.getvalue()[-200:]}") from end
    return "read"


ARCHIVES = Format(
    "L1",
    "hostile archives wherever a user may name a file",
    "no code of the project unpacks; nothing written, made or run, by an audit hook and the tree "
    "before and after",
    {name: File(".zip", make) for name, make in _ARCHIVES.items()},
    {
        "weights": weights(""),
        "weights, .pth": weights(".pth"),
        "weights, .safetensors": weights(".safetensors"),
        **{f"data.path of {n}": _data(n) for n in ("image_folder", "video_folder", "video_list")},
        **{f"data.path of {n}": _data(n) for n in ("video_records", "ssv2")},
        "an image": _media(".jpg", "image_folder"),
        "a video": _media(".mp4", "video_folder"),
        "extract": _extract,
        "prepare": _prepare,
    },
    damaged=tuple(n for n in _ARCHIVES if "20,000" not in n and "500 MB" not in n),
    warm=("7z", "zip, link"),
)
