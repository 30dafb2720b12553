"""Videos drawn into MP4 files on first use, for demonstrations and tests."""

from __future__ import annotations

import abc
import concurrent.futures
import os
import sys
import uuid
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
from av.video.stream import VideoStream
from tqdm import tqdm

from input_pipeline.datasets.shapes import Drawn
from input_pipeline.paths import local_path
from input_pipeline.source import fingerprint

GOP = 12  # frames from one keyframe to the next
# With its assembly code, libx264 writes another file now and then.
_X264 = {"crf": "20", "preset": "fast", "x264-params": "asm=0"}
_ENCODERS = (("libx264", _X264), ("mpeg4", {"q": "3"}))


class DrawnVideos(Drawn, abc.ABC):
    """A dataset of drawn videos; the files that are missing are made when it is opened.

    They are H.264, or MPEG-4 if the encoder is missing, with a keyframe every 12 frames.
    """

    SPLITS: ClassVar = {"train": 2_000, "validation": 400, "test": 400}
    RATE: ClassVar[int]  # frames per second
    NAME: ClassVar[str]  # of the dataset and its version, for the fingerprint

    def __init__(
        self,
        split: str,
        path: str,
        num_examples: int | None,
        size: int,
        frames: int,
        seed: int,
        class_names: tuple[str, ...],
        kind: str = "",
    ):
        """Makes the missing files on all cores.

        Args:
          split: see `Drawn`, as `num_examples` and `seed`.
          path: folder of the files; each choice of what follows but their number has a subfolder.
          num_examples: see `Drawn`.
          size: side of the frames, in pixels, even.
          frames: number of frames of each video.
          seed: see `Drawn`.
          class_names: by class index.
          kind: ending of the name of the subfolder.
        """
        super().__init__(split, num_examples, seed, class_names)
        if size < 32 or size % 2:
            raise ValueError(f"size is {size}; it must be even and at least 32 pixels")
        if frames < 1:
            raise ValueError(f"frames is {frames}; it must be at least 1")
        self._size, self._frames = size, frames
        settings = f"{size}px_{frames}frames_seed{seed}{kind}"
        self._folder = local_path(path) / settings / split
        self._make_missing()
        self.fingerprint = fingerprint(
            f"{self.NAME} {settings} {split} {self.num_examples}".encode().split()
        )

    def name_of(self, index: int) -> str:
        """The path of the file."""
        return str(self._folder / f"{index:06d}.mp4")

    @abc.abstractmethod
    def draw(self, index: int) -> np.ndarray:
        """The frames of one video: uint8 (frames, size, size, 3)."""

    def _make_missing(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        there = set(os.listdir(self._folder))
        names = (f"{index:06d}.mp4" for index in range(self.num_examples))
        missing = [index for index, name in enumerate(names) if name not in there]
        if not missing:
            return
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            made = pool.map(self._make, missing)
            try:
                seconds = 0.1 if sys.stderr.isatty() else 10.0  # a log needs few lines
                name = f"making {self._folder}"
                for _ in tqdm(made, name, len(missing), unit=" videos", mininterval=seconds):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _make(self, index: int) -> None:
        path = Path(self.name_of(index))
        partial = path.with_suffix(f".partial-{uuid.uuid4().hex}")
        try:
            _encode(self.draw(index), partial, self.RATE)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _encode(frames: np.ndarray, path: Path, rate: int) -> None:
    encoder, options = next(e for e in _ENCODERS if e[0] in av.codecs_available)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(encoder, rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = GOP
        stream.codec_context.thread_count = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
