"""The packets of a video: which frames there are, and which packets are needed for some of them."""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Iterator
from fractions import Fraction

from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from input_pipeline.bad_inputs import BadMedia

MAX_REORDERED = 16  # frames that any decoder holds back before it shows one
KEPT_BYTES = 32 * 2**20  # packets of smaller videos stay in memory, larger ones are read again


class Packets:
    """All packets of a video, listed once.

    A packet is known by its position in the file (the order of decoding), a frame by its index in
    the order of presentation; times are integers in the time base of the stream.

    Attributes:
      num_frames: frames that are shown.
      timed: whether packets say when their frame is shown. AVI does not if frames are reordered:
        then only decoding from the start shows the order, and the time of a frame is its index.
    """

    def __init__(
        self, container: InputContainer, stream: VideoStream, max_frames: int, deadline: float
    ):
        """Reads through the file, until `deadline` on the monotonic clock.

        Raises:
          BadMedia: no frames, more than `max_frames`, fewer than the file promises, or without
            times that tell them apart; or the time is over.
          av.error.FFmpegError: the container is damaged.
        """
        self._container, self._stream = container, stream
        self._kept: list[Packet] | None = []
        self._times: list[int] = []  # of presentation, by position
        self._decode_times: list[int] = []  # by position
        self._keys: list[int] = []  # positions
        self.timed = True
        shown = self._list(max_frames, deadline)
        if not self.timed:
            self._times = shown = list(range(len(self._times)))
            self._keys = []
        if self._keys:
            shown = self._decodable(shown)
        self._order = sorted(shown, key=self._times.__getitem__)  # positions, by index
        self.num_frames = len(self._order)
        if not self._order:
            raise BadMedia("short", "the file holds no frame")
        if len({self._times[position] for position in shown}) < len(shown):
            raise BadMedia("decode_error", "two frames are shown at the same time")

    def time_of(self, index: int) -> int:
        """When a frame is shown."""
        return self._times[self._order[index]]

    def frames_per_second(self) -> float:
        """The rate in the header if the times of the frames agree within 10 %, else their mean.

        A single frame without a rate counts as one per second.
        """
        header = self._stream.average_rate or self._stream.guessed_rate
        if self.num_frames == 1 or (header and not self.timed):
            return float(header or 1)
        ticks = self.time_of(self.num_frames - 1) - self.time_of(0)
        measured = (self.num_frames - 1) / (ticks * (self._stream.time_base or Fraction(1)))
        if header and abs(header / measured - 1) < 0.1:
            return float(header)
        return float(measured)

    def spans(self, indices: list[int]) -> list[tuple[int, int]]:
        """Which packets to decode for some frames, given in increasing order.

        Returns:
          Positions (first, last + 1), in increasing order; each begins with a key frame if the
          file has any.
        """
        ahead = 1 if self.timed else 1 + MAX_REORDERED
        positions = [self._order[index] for index in indices]
        needed = sorted((self._key_before(at), at + ahead) for at in positions)
        spans = [needed[0]]
        for start, stop in needed[1:]:
            last_start, last_stop = spans[-1]
            if start <= last_stop:
                spans[-1] = (last_start, max(stop, last_stop))
            else:
                spans.append((start, stop))
        return spans

    def read(self, start: int, stop: int) -> Iterator[tuple[Packet, int]]:
        """The packets of a span with the times their frames are shown at.

        Frames shown before the key frame that a span begins with refer to earlier ones and cannot
        be decoded; they are left out.
        """
        for position, packet in enumerate(self._packets_from(start), start):
            if position == stop:
                return
            if self._times[position] >= self._times[start]:
                yield packet, self._times[position]

    def _list(self, max_frames: int, deadline: float) -> list[int]:
        """Fills the lists; returns the positions of frames that are shown."""
        shown: list[int] = []
        num_bytes = 0
        hides = self._stream.codec_context.name == "vp8"
        found = -1  # the last is not a packet, but says that it was the last
        for packet in self._container.demux(self._stream):
            found += 1
            if not packet.size:  # AVI: "as before"
                continue
            position = len(self._times)
            if packet.is_corrupt:
                raise BadMedia("short", f"the file ends within frame {position}")
            decoded_at = _decode_time(packet)
            self.timed &= packet.pts is not None
            if position == max_frames:
                raise BadMedia("too_large", f"more than {max_frames} frames (max_frames)")
            if time.monotonic() > deadline:
                raise BadMedia("timeout", f"not listed in time, {position} frames so far")
            self._times.append(decoded_at if packet.pts is None else packet.pts)
            self._decode_times.append(decoded_at)
            if packet.is_keyframe:
                self._keys.append(position)
            if not (packet.is_discard or (hides and not bytes(packet)[0] & 16)):  # show_frame
                shown.append(position)
            num_bytes += packet.size
            if num_bytes > KEPT_BYTES:
                self._kept = None
            if self._kept is not None:
                self._kept.append(packet)
        _check_complete(self._container, self._stream, found)
        return shown

    def _decodable(self, shown: list[int]) -> list[int]:
        """Without what a file that was cut out of another shows before its first key frame."""
        key = self._keys[0]
        if key and _begins_with_key(self._container, self._stream):
            raise BadMedia("decode_error", "the first frame is damaged")
        usable = [at for at in shown if at >= key and self._times[at] >= self._times[key]]
        others = set(shown).difference(usable)
        if others and max(others) > key + MAX_REORDERED:
            raise BadMedia("decode_error", "the times of the frames contradict their order")
        return usable

    def _key_before(self, position: int) -> int:
        """The last key frame that is both decoded and shown no later than a frame."""
        at = bisect.bisect_right(self._keys, position) - 1
        while at >= 0 and self._times[self._keys[at]] > self._times[position]:
            at -= 1
        return self._keys[at] if at >= 0 else 0

    def _packets_from(self, start: int) -> Iterator[Packet]:
        if self._kept is not None:
            yield from self._kept[start:]
            return
        for target in (start, 0):
            self._container.seek(self._decode_times[target], stream=self._stream)
            packets = (packet for packet in self._container.demux(self._stream) if packet.size)
            first = next(packets, None)
            if first is None:
                continue
            position = bisect.bisect_left(self._decode_times, _decode_time(first))
            if position <= start:
                yield from itertools.islice(
                    itertools.chain([first], packets), start - position, None
                )
                return
        raise BadMedia("decode_error", "the file cannot be read a second time")


def _decode_time(packet: Packet) -> int:
    time_ = packet.pts if packet.dts is None else packet.dts
    if time_ is None:
        raise BadMedia("decode_error", "a frame without a time")
    return time_


def _begins_with_key(container: InputContainer, stream: VideoStream) -> bool:
    """Whether MP4 lists its key frames and the first frame is one of them."""
    if "mov" not in container.format.name or not len(stream.index_entries):
        return False
    keys = [entry.is_keyframe for entry in stream.index_entries]
    return keys[0] and not all(keys)


def _check_complete(container: InputContainer, stream: VideoStream, found: int) -> None:
    """Refuses files that were cut: containers say beforehand what they hold."""
    if "mov" in container.format.name:
        promised, slack = len(stream.index_entries), 0
    elif stream.frames:  # AVI
        promised, slack = stream.frames, 2
    else:
        return
    if found < promised - slack:
        raise BadMedia("short", f"{found} of the {promised} frames that the header promises")
