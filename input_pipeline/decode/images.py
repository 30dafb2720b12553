"""Decoding of image files, with checks before anything is allocated.

JPEG, PNG, WebP, BMP, TIFF, GIF and AVIF, recognised by their first bytes (a PNG named .jpg is a
PNG). Results equal Pillow's: grey is repeated over the channels, alpha is dropped, CMYK is
converted, 16 bits are cut to the upper eight, an animation gives its first frame, and EXIF
orientation is ignored as in the original implementations (that of a TIFF is applied).
"""

from __future__ import annotations

import functools
import io
import re
import zlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError, features

from input_pipeline.bad_inputs import BadMedia, refuse_larger
from input_pipeline.decode.kinds import HEAD_BYTES, require
from input_pipeline.source import IMAGE_PIXELS
from input_pipeline.views.crops import Window, short_side

MAX_SCANS = 64  # of a progressive JPEG; each may be a few bytes and costs a pass over all pixels
Image.MAX_IMAGE_PIXELS = None  # no recipe could raise this limit; `open_picture` checks all sizes
_JPEG_END = b"\xff\xd9"
_JPEG_MARKER = re.compile(
    rb"\xff[^\x00\x01\xd0-\xd8\xff]"
)  # of those that have a length, or the end


class Picture:
    """An image whose size is known and whose pixels are not decoded yet.

    Args:
      header: the image opened by Pillow; pixels are read on demand.
      jpeg: the file, if it is a plain JPEG, whose windows can be decoded separately.
    """

    def __init__(self, header: Image.Image, jpeg: bytes | None = None):
        self.width, self.height = header.size
        self._header, self._jpeg = header, jpeg

    def crop(self, window: Window) -> Image.Image:
        """Decodes a window: mode RGB, `window.width` by `window.height`."""
        top, left, height, width = window
        # For larger windows Pillow is as fast; both give the same pixels.
        if self._jpeg is not None and height * width < 0.5 * self.height * self.width:
            return self._decode_jpeg(self._jpeg, window)
        return self._rgb.crop((left, top, left + width, top + height))

    def whole(self) -> Image.Image:
        """Decodes the whole image, mode RGB; always the same object."""
        return self._rgb

    @functools.cached_property
    def _rgb(self) -> Image.Image:
        self._header.load()
        return _to_rgb(self._header)

    def _decode_jpeg(self, jpeg: bytes, window: Window) -> Image.Image:
        """Decodes the window with a margin of one pixel.

        The accurate DCT is the one that Pillow uses. Chroma is interpolated, at the border of the
        decoded window from one side only: because of the margin, the window equals that of the
        whole image, bit for bit.
        """
        from input_pipeline.tf_data import tf  # here, as videos do not need it

        top, left = max(0, window.top - 1), max(0, window.left - 1)
        bottom = min(self.height, window.top + window.height + 1)
        right = min(self.width, window.left + window.width + 1)
        pixels = tf.raw_ops.DecodeAndCropJpeg(
            contents=jpeg,
            crop_window=[top, left, bottom - top, right - left],
            channels=3,
            dct_method="INTEGER_ACCURATE",
        )
        x, y = window.left - left, window.top - top
        image = Image.fromarray(np.asarray(pixels))
        return image.crop((x, y, x + window.width, y + window.height))


def open_picture(data: bytes | np.ndarray, max_pixels: int = IMAGE_PIXELS) -> Picture:
    """Reads the header of an image file, or wraps pixels, uint8 (height, width, 3) RGB.

    Raises:
      BadMedia: empty, not an image, more than `max_pixels`, or a PNG whose checksums are wrong.
      Exception: any other error of the decoder in the header.
    """
    if isinstance(data, np.ndarray):
        return Picture(Image.fromarray(data))
    name = _format_of(data)
    try:
        header = Image.open(io.BytesIO(data), formats=[name])
    except UnidentifiedImageError:
        raise BadMedia("decode_error", f"a {name} file that Pillow cannot read") from None
    refuse_larger(*header.size, max_pixels)
    if header.format == "PNG":
        _check_png(data)
    if header.format == "TIFF":
        _check_tiff(header, max_pixels)
    # Pillow gives files of several JPEG images another format.
    if data.startswith(b"\xff\xd8") and (scans := _count_scans(data)) > MAX_SCANS:
        raise BadMedia("too_large", f"a JPEG of {scans} scans, the limit is {MAX_SCANS}")
    # A window of a truncated file might still decode; Pillow reads to the end and raises.
    plain_jpeg = header.format == "JPEG" and header.mode in ("RGB", "L") and data[-2:] == _JPEG_END
    return Picture(header, data if plain_jpeg else None)


def _format_of(data: bytes) -> str:
    name = require(data[:HEAD_BYTES], "image").format
    if name == "AVIF" and not features.check("avif"):
        raise BadMedia("decode_error", "AVIF, but this Pillow was built without its decoder")
    return name


def _check_tiff(header: Image.Image, max_pixels: int) -> None:
    """Refuses pixels of which the upper eight bits are not the picture, and thumbnails."""
    tags = header.tag_v2  # type: ignore[attr-defined]
    bits, signs, colours = tags.get(258, (1,)), tags.get(339, (1,)), tags.get(262)
    if tags.get(254, 0) & 1:
        raise BadMedia("not_media", "the first picture of this TIFF is a thumbnail of another")
    inverted = colours == 0 and 16 in bits  # Pillow does not invert it
    if not {1, 2, 4, 8, 16}.issuperset(bits) or set(signs) != {1} or inverted:
        raise BadMedia(
            "decode_error",
            f"TIFF of {bits} bits, sample format {signs}, colours {colours}; expected 8 bits, or "
            "16 unsigned bits where 0 is black",
        )
    refuse_larger(tags.get(322, 1), tags.get(323, 1), max_pixels)  # size of a tile


def _count_scans(jpeg: bytes) -> int:
    """Number of scans of the first image; phones append a video, whose bytes may look alike."""
    scans = jpeg.count(b"\xff\xda")  # compressed data never contains these two bytes
    if scans <= MAX_SCANS:
        return scans
    at = scans = 0
    while (marker := _JPEG_MARKER.search(jpeg, at)) and marker[0] != _JPEG_END:
        scans += marker[0] == b"\xff\xda"
        at = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
    return scans


def _check_png(data: bytes) -> None:
    """Verifies the checksums of the pixel data of a PNG, which Pillow ignores."""
    at = 8
    while at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IDAT" and zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            raise BadMedia("decode_error", f"the checksum of the pixel data at byte {at} is wrong")
        if kind == b"IEND":
            return
        at = end + 4


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip at 255
        grey = (np.asarray(image).astype(np.int32) >> 8).clip(0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def decoded_alone(
    decode: Callable[[int], np.ndarray],
    indices: Sequence[int],
    size: tuple[int, int],
    shorter: int | None,
) -> np.ndarray:
    """Frames of a video each of which is an image: uint8 (frames, height, width, 3).

    Args:
      decode: returns the frame of an index.
      indices: of the frames; one that follows itself is decoded once.
      size: height and width of the frames.
      shorter: side to scale them to, down by area, up bicubic; None for no scaling.
    """
    height, width = size if shorter is None else short_side(*size, shorter)
    clip = np.empty((len(indices), height, width, 3), np.uint8)
    for row, index in enumerate(indices):
        if row and index == indices[row - 1]:
            clip[row] = clip[row - 1]
            continue
        frame = decode(int(index))
        if (height, width) != size:
            method = cv2.INTER_AREA if height < size[0] else cv2.INTER_CUBIC
            frame = cv2.resize(frame, (width, height), interpolation=method)
        clip[row] = frame
    return clip
