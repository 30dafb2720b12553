"""Which kind of media a file is: by its first bytes, whatever its name.

Decoders are forced to the format that is found here; they never guess. Formats that cannot be read,
or whose frames have no exact times, are named in messages only.
"""

from __future__ import annotations

import os
import re
from typing import Literal, NamedTuple

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.regular_files import open_regular

HEAD_BYTES = 1024
Media = Literal["image", "video"]

_IMAGES = ".jpg .jpeg .jpe .jfif .png .webp .bmp .tif .tiff .gif .avif"
_VIDEOS = ".mp4 .m4v .mov .3gp .mkv .webm .avi .mpg .mpeg .wmv .flv"
_TEXTS = ".txt .csv .tsv .json .jsonl .xml .yaml .html .md .log .srt .vtt .py"
_ARRAYS = ".npy .npz .mat .pt .pth .pkl .safetensors .h5 .zip .tar .gz"
_SOUND = ".wav .mp3 .m4a .aac .wma .mka .flac .ogg .oga .opus"
_RAW = ".dng .nef .nrw .cr2 .cr3 .arw .sr2 .orf .rw2 .raf .pef"
# Usual endings of file names, in lower case. Such files are listed without being opened.
ENDINGS: dict[Media, list[str]] = {"image": _IMAGES.split(), "video": _VIDEOS.split()}
# Files that are not opened to find out: there may be one for each example. Sound begins like a
# video, and a raw photograph like a TIFF, whose first picture is a thumbnail.
SIDE_FILES = frozenset(" ".join((_TEXTS, _ARRAYS, _SOUND, _RAW)).split())


class Kind(NamedTuple):
    """What a file is."""

    media: Media | None  # None if it cannot be read
    format: str  # Pillow's or FFmpeg's name
    title: str


# Without the flag of an error, and with some content.
_TS_PACKET = rb"G[\0-\x7f].[\x10-\x3f\x50-\x7f\x90-\xbf\xd0-\xff].{184}"
_STARTS: list[tuple[bytes, Media | None, str, str]] = [
    (rb"\xff\xd8\xff", "image", "JPEG", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "image", "PNG", "PNG"),
    (rb"RIFF.{4}WEBP", "image", "WEBP", "WebP"),
    (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "image", "BMP", "BMP"),
    (rb"II[*+]\0.{4}CR", None, "", "a raw photograph"),
    (rb"II[*+]\0|MM\0[*+]", "image", "TIFF", "TIFF"),
    (rb"GIF8[79]a", "image", "GIF", "GIF"),
    # The kind is the first brand; that of HEIF in general says no more than the others.
    (rb".{4}ftyp(avif|avis|(mif1|msf1|miaf).{4}(.{4}){0,8}avif)", "image", "AVIF", "AVIF"),
    (rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1|miaf)", None, "", "HEIF"),
    (rb".{4}ftyp(M4A |M4B |M4P )", None, "", "sound (M4A)"),
    (rb".{4}ftypcrx ", None, "", "a raw photograph"),
    (rb".{4}(ftyp|mdat)", "video", "mov", "MP4/MOV"),
    (rb"[\0-\x1f].{3}(moov|free|skip|wide|pnot)", "video", "mov", "MP4/MOV"),
    (rb"\x1a\x45\xdf\xa3", "video", "matroska", "Matroska/WebM"),
    (rb"RIFF.{4}AVI ", "video", "avi", "AVI"),
    (rb"\0\0\x01\xba", "video", "mpeg", "MPEG program stream"),
    (rb"(%b){4}" % _TS_PACKET, "video", "mpegts", "MPEG transport stream"),
    (rb"(.{4}%b){4}" % _TS_PACKET, "video", "mpegts", "MPEG transport stream"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video", "asf", "ASF/WMV"),
    (rb"FLV\x01", "video", "flv", "FLV"),
    (rb"\0\0\x01\xb3", None, "", "an MPEG elementary stream, without times of its frames"),
    (rb"OggS", None, "", "Ogg, which does not store repeated frames"),
]
_KINDS = [
    (re.compile(start, re.DOTALL), Kind(media, name, title))
    for start, media, name, title in _STARTS
]


def kind_of(head: bytes) -> Kind | None:
    """Kind of a file, by its first `HEAD_BYTES`; None if unknown."""
    return next((kind for start, kind in _KINDS if start.match(head)), None)


def read_head(path: str) -> bytes:
    """The first `HEAD_BYTES` of a file.

    Raises:
      BadMedia: not a regular file.
      OSError: it cannot be read.
    """
    with open_regular(path) as (descriptor, _):
        return os.pread(descriptor, HEAD_BYTES, 0)


def require(head: bytes, *media: Media) -> Kind:
    """Kind of a file, by its first `HEAD_BYTES`.

    Raises:
      BadMedia: empty, or none of these media in a format that can be read.
    """
    if not head:
        raise BadMedia("empty", "0 bytes")
    kind = kind_of(head)
    if kind is not None and kind.media in media:
        return kind
    found = f"starts with {head[:12]!r}" if kind is None else f"this is {kind.title}"
    expected = (kind.title for _, kind in _KINDS if kind.media in media)
    raise BadMedia("not_media", f"{found}; expected {', '.join(dict.fromkeys(expected))}")
