"""The packets of a video: its frames, and the packets that are needed to decode some of them."""

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
from input_pipeline.decode.mpeg4 import Pictures

MAX_REORDERED = 16  # frames that any decoder delays before it returns one
KEPT_BYTES = 32 * 2**20  # packets of smaller videos stay in memory, larger ones are read again


class Packets:
    """All packets of a video, listed once.

    A packet is identified by its position in the file (decoding order), a frame by its index in
    presentation order; timestamps are integers in the time base of the stream. Packets for which
    the decoder returns no frame do not count: hidden ones, and pictures that are not coded.

    Attributes:
      num_packets: packets of the file.
      num_frames: frames that are presented.
      timed: whether packets have presentation timestamps. AVI has none if frames are reordered:
        then the order is known only by decoding from the start, and the timestamp is the index.
      repeats_last: whether the file ends with a picture that is not coded: at the end of the file
        the decoder returns the picture before it once more.
    """

    def __init__(
        self, container: InputContainer, stream: VideoStream, max_frames: int, deadline: float
    ):
        """Reads the whole file, until `deadline` of the monotonic clock at most.

        Raises:
          BadMedia: no frames, more than `max_frames`, fewer than the header states, missing or
            equal timestamps, or past the deadline.
          av.error.FFmpegError: the container is damaged.
        """
        self._container, self._stream = container, stream
        self._kept: list[Packet] | None = []
        self._times: list[int] = []  # presentation timestamps, by position
        self._decode_times: list[int] = []  # by position
        self._keys: list[int] = []  # positions of keyframes
        self.timed = True
        self.repeats_last = False
        presented = self._list(max_frames, deadline)
        self.num_packets = len(self._times)
        if not self.timed:
            before = [0] * len(self._times)  # frames before each packet
            for position in presented[:-1]:
                before[position + 1] = 1
            self._times = list(itertools.accumulate(before))
            self._keys = []
        if self._keys:
            presented = self._decodable(presented)
        self._order = sorted(presented, key=self._times.__getitem__)  # positions, by index
        ranks = {position: rank for rank, position in enumerate(presented)}
        if any(abs(ranks[at] - index) > MAX_REORDERED for index, at in enumerate(self._order)):
            raise BadMedia("decode_error", "the timestamps contradict the order of the frames")
        self.num_frames = len(self._order)
        if not self._order:
            raise BadMedia("short", "the file has no frames")
        if len({self._times[position] for position in presented}) < len(presented):
            raise BadMedia("decode_error", "two frames have the same timestamp")

    def time_of(self, index: int) -> int:
        """Presentation timestamp of a frame."""
        return self._times[self._order[index]]

    def start_time(self, start: int) -> int:
        """Presentation timestamp of the first packet of a span."""
        return self._times[start]

    def frames_before(self, stop: int) -> int:
        """Number of frames in the packets before a position, if packets are not `timed`."""
        return bisect.bisect_left(self._order, stop)

    def frames_per_second(self) -> float:
        """The rate in the header if the timestamps agree within 10 %, else their mean rate.

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
        """The packets to decode for the requested frames, given in increasing order.

        Returns:
          Positions (first, last + 1), in increasing order; each begins with a keyframe if the
          file has any.
        """
        ahead = 1 if self.timed else 1 + MAX_REORDERED
        positions = [self._order[index] for index in indices]
        needed = sorted(
            (self._key_before(at), min(at + ahead, self.num_packets)) for at in positions
        )
        spans = [needed[0]]
        for start, stop in needed[1:]:
            last_start, last_stop = spans[-1]
            if start <= last_stop:
                spans[-1] = (last_start, max(stop, last_stop))
            else:
                spans.append((start, stop))
        return spans

    def read(self, start: int, stop: int) -> Iterator[tuple[Packet, int]]:
        """The packets of a span with the presentation timestamps of their frames.

        Frames presented before the first keyframe of the span depend on earlier ones and cannot be
        decoded; they are left out.
        """
        for position, packet in enumerate(self._packets_from(start), start):
            if position == stop:
                return
            if self._times[position] >= self._times[start]:
                yield packet, self._times[position]

    def _list(self, max_frames: int, deadline: float) -> list[int]:
        """Fills the lists; returns the positions of frames that are presented."""
        presented: list[int] = []
        num_bytes = 0
        codec = self._stream.codec_context
        is_vp8 = codec.name == "vp8"
        pictures = Pictures(codec.extradata or b"") if codec.name == "mpeg4" else None
        found = -1  # the last one is empty: it only marks the end
        for packet in self._container.demux(self._stream):
            found += 1
            if not packet.size:
                continue
            position = len(self._times)
            if packet.is_corrupt:
                raise BadMedia("short", f"the file ends within frame {position}")
            decoded_at = _decode_time(packet)
            self.timed &= packet.pts is not None
            if position == max_frames:
                raise BadMedia("too_large", f"more than {max_frames} frames (max_frames)")
            if time.monotonic() > deadline:
                raise BadMedia(
                    "timeout", f"packets not listed in time (timeout_seconds), {position} so far"
                )
            self._times.append(decoded_at if packet.pts is None else packet.pts)
            self._decode_times.append(decoded_at)
            if packet.is_keyframe:
                self._keys.append(position)
            hidden = is_vp8 and not bytes(packet)[0] & 16  # VP8's show_frame
            self.repeats_last = pictures is not None and not pictures.gives_frame(bytes(packet))
            if not (packet.is_discard or hidden or self.repeats_last):
                presented.append(position)
            num_bytes += packet.size
            if num_bytes > KEPT_BYTES:
                self._kept = None
            if self._kept is not None:
                self._kept.append(packet)
        if self._decode_times:
            _check_complete(self._container, self._stream, found, self._decode_times[-1] + 1)
        self.repeats_last &= not codec.has_b_frames
        if self.repeats_last:
            presented.append(len(self._times) - 1)
        if pictures is not None and pictures.packed:
            self.timed = False
        return presented

    def _decodable(self, presented: list[int]) -> list[int]:
        """Drops frames before the first keyframe, which a file cut out of another may have."""
        key = self._keys[0]
        if key and _begins_with_key(self._container, self._stream):
            raise BadMedia("decode_error", "the first frame is damaged")
        usable = [at for at in presented if at >= key and self._times[at] >= self._times[key]]
        others = set(presented).difference(usable)
        if others and max(others) > key + MAX_REORDERED:
            raise BadMedia("decode_error", "the timestamps contradict the order of the frames")
        return usable

    def _key_before(self, position: int) -> int:
        """The last keyframe that is both decoded and presented no later than a frame."""
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
        raise BadMedia("decode_error", "a frame without a timestamp")
    return time_


def _begins_with_key(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the file is MP4, lists its keyframes, and the first frame is one of them."""
    if "mov" not in container.format.name or not len(stream.index_entries):
        return False
    keys = [entry.is_keyframe for entry in stream.index_entries]
    return keys[0] and not all(keys)


def _check_complete(container: InputContainer, stream: VideoStream, found: int, end: int) -> None:
    """Rejects truncated files: fewer frames than the index or the header states.

    `found` packets are in the file, the last one ends at `end`. AVI counts frames, also those that
    repeat the last one and have no packet.
    """
    if "mov" in container.format.name or "avi" in container.format.name:
        listed = len(stream.index_entries)
        if found < listed:
            raise BadMedia("short", f"{found} of the {listed} frames that the header states")
    if "avi" in container.format.name and end < stream.frames - 2:
        raise BadMedia("short", f"{end} of the {stream.frames} frames that the header states")
