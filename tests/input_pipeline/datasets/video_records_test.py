from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline import EvalView
from input_pipeline.bad_inputs import BadMedia
from input_pipeline.datasets.video_records import VideoRecords
from input_pipeline.records import __main__ as index_records
from input_pipeline.records import format as record_format
from input_pipeline.records import index as record_index
from tests.input_pipeline.samples import encode

HEIGHT, WIDTH = 24, 36


def jpeg(value: int, size=(WIDTH, HEIGHT)) -> bytes:
    """A smooth picture that depends on the value."""
    x, y = np.linspace(0, 100, size[0]), np.linspace(0, 100, size[1])[:, None]
    pixels = np.stack([x + 0 * y, y + 0 * x, 0 * x * y + value], axis=-1)
    return encode(pixels.astype(np.uint8), quality=95)


def images_of(video: int) -> list[bytes]:
    return [jpeg(20 * video + frame) for frame in range(video + 3)]


def example(video: int, images: list[bytes] | None = None, **context) -> bytes:
    context = {
        "clip/label/index": video % 3,
        "clip/label/text": ("ant", "bee", "cat")[video % 3],
        "video/filename": f"{video}.mp4",
        "clip/fps": 12.5,
    } | {key.replace("_", "/"): value for key, value in context.items()}
    present = {key: value for key, value in context.items() if value is not None}
    return record_format.sequence_example(present, images or images_of(video))


def write_shards(folder: Path, shards: list[list[bytes]], split: str = "train") -> list[Path]:
    paths = [folder / f"{split}-{i:05d}-of-{len(shards):05d}" for i in range(len(shards))]
    for path, payloads in zip(paths, shards, strict=True):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for payload in payloads:
                writer.write(payload)
    return paths


@pytest.fixture
def folder(tmp_path) -> Path:
    """Eight videos in three shards, the second of them empty."""
    videos = [[example(v) for v in part] for part in (range(5), [], range(5, 8))]
    write_shards(tmp_path, videos)
    return tmp_path


def decode(source: VideoRecords, index: int, indices=None, short_side=None) -> np.ndarray:
    with source.read(index).data.open() as video:
        return video.frames(range(video.num_frames) if indices is None else indices, short_side)


def pillow(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)))


def test_reads_any_frames_of_any_video(folder):
    source = VideoRecords("train", path=str(folder))
    assert source.num_examples == 8
    assert source.class_names == ("ant", "bee", "cat")
    for index in (6, 0, 4, 5, 7):
        example = source.read(index)
        assert example.label == index % 3
        with example.data.open() as video:
            assert (video.num_frames, video.fps) == (index + 3, 12.5)
            assert (video.height, video.width) == (HEIGHT, WIDTH)
        expected = [pillow(image) for image in images_of(index)]
        assert np.array_equal(decode(source, index, [0, 1, 1, 2]), np.stack(expected)[[0, 1, 1, 2]])
        assert np.array_equal(decode(source, index), np.stack(expected))
    assert source.name_of(6) == f"{folder}/train-00002-of-00003:1 (6.mp4)"


def test_scales_to_a_short_side(folder):
    source = VideoRecords("train", path=str(folder))
    whole = decode(source, 3, [2])[0].astype(float)
    smaller = decode(source, 3, [2], short_side=12)
    assert smaller.shape == (1, 12, 18, 3)
    assert np.abs(smaller[0] - whole.reshape(12, 2, 18, 2, 3).mean((1, 3))).max() <= 1
    assert decode(source, 3, [2], short_side=48).shape == (1, 48, 72, 3)


def test_the_index_is_made_once(folder, monkeypatch):
    before = VideoRecords("train", path=str(folder))
    monkeypatch.setattr(record_index, "read_shard", None)  # would fail if it were called
    after = VideoRecords("train", path=str(folder))
    assert after.fingerprint == before.fingerprint
    assert np.array_equal(decode(before, 5), decode(after, 5))


def test_the_index_is_kept_in_memory_where_it_cannot_be_written(folder, monkeypatch):
    def refuse(self, shard):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(record_index.ShardIndex, "save", refuse)
    source = VideoRecords("train", path=str(folder))
    assert np.array_equal(decode(source, 7, [0])[0], pillow(images_of(7)[0]))
    assert not list(folder.glob("*.index"))


def flip_byte(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_damage_before_indexing_costs_one_video(folder):
    shard = folder / "train-00000-of-00003"
    second = record_format.framed(example(0))
    flip_byte(shard, len(second) + 500)
    source = VideoRecords("train", path=str(folder))
    assert source.num_examples == 8
    with pytest.raises(BadMedia, match="checksum of record 1 of train-00000-of-00003 is wrong"):
        decode(source, 1)
    for index in (0, 2, 7):
        assert np.array_equal(decode(source, index, [2])[0], pillow(images_of(index)[2]))


def test_indexes_can_be_made_beforehand(folder, capsys):
    flip_byte(folder / "train-00002-of-00003", 500)
    index_records.main(folder)
    assert len(list(folder.glob("*.index"))) == 3
    printed = capsys.readouterr().out
    assert "8 videos in 3 files, 1 damaged" in printed
    assert "the checksum of record 0 of train-00002-of-00003 is wrong" in printed
    (folder / "val-00000-of-00001").write_bytes(b"something else")
    with pytest.raises(SystemExit, match="val-00000-of-00001 is damaged, or not a TFRecord file"):
        index_records.main(folder)
    with pytest.raises(SystemExit, match="holds no files such as train-00000-of-00010"):
        index_records.main(folder / "nowhere")


def test_damage_after_indexing_is_noticed(folder):
    source = VideoRecords("train", path=str(folder))
    locations = source.read(4).data.locations
    flip_byte(folder / "train-00000-of-00003", int(locations["offset"][3]) + 200)
    for damaged in (source, VideoRecords("train", path=str(folder))):
        assert decode(damaged, 4, [0, 1, 2]).shape[0] == 3
        with pytest.raises(BadMedia, match="checksum of frame 3 in .*train-00000-of-00003"):
            decode(damaged, 4)


def test_another_shard_of_the_same_size_is_noticed(folder):
    assert VideoRecords("train", path=str(folder)).read(1).label == 1
    other = [example(v, clip_label_index=2) if v == 1 else example(v) for v in range(5)]
    (folder / "new").mkdir()
    write_shards(folder / "new", [other])[0].replace(folder / "train-00000-of-00003")
    source = VideoRecords("train", path=str(folder))
    assert decode(source, 0).shape[0] == 3
    with pytest.raises(BadMedia, match=r"not the one that was indexed; delete .*00003\.index"):
        decode(source, 1)
    (folder / "train-00000-of-00003.index").unlink()
    assert VideoRecords("train", path=str(folder)).read(1).label == 2


def test_names_and_labels_are_those_of_the_class_file(tmp_path):
    name = os.fsdecode(b"caf\xe9\n")
    texts = [example(v, clip_label_text=name if v == 1 else "b") for v in range(2)]
    write_shards(tmp_path, [texts])
    assert VideoRecords("train", path=str(tmp_path)).class_names == ("b", name)
    (tmp_path / "classes.txt").write_text("a\u2028b\n" + '"caf\\udce9\\n"\n')
    assert VideoRecords("train", path=str(tmp_path)).class_names == ("a\u2028b", name)


def test_labels_from_one_leave_class_0_empty(tmp_path):
    write_shards(tmp_path, [[example(1), example(2)]])
    with pytest.raises(
        ValueError, match=r"label 0 is empty: the labels are 1 to 2.*write them from 0"
    ):
        VideoRecords("train", path=str(tmp_path))
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(ValueError, match=r"names 2 classes, .* is 2 \(label 0 is empty"):
        VideoRecords("train", path=str(tmp_path))
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    assert VideoRecords("train", path=str(tmp_path)).read(0).label == 1


def test_a_shard_cut_short_is_named(folder):
    shard = folder / "train-00002-of-00003"
    data = shard.read_bytes()
    for size in (len(data) - 1, 5):
        shard.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"train-00002-of-00003 is truncated: \d+ bytes"):
            VideoRecords("train", path=str(folder))
    shard.write_bytes(data)
    VideoRecords("train", path=str(folder))
    shard.write_bytes(data[:-10])
    with pytest.raises(ValueError, match="bytes when it was indexed|when it was indexed; copy"):
        VideoRecords("train", path=str(folder))


def test_hostile_lengths_allocate_nothing(folder):
    shard = folder / "train-00002-of-00003"
    header = (2**60).to_bytes(8, "little")
    crc = record_format.masked_crc(header).to_bytes(4, "little")
    shard.write_bytes(header + crc + b"some bytes")
    with pytest.raises(ValueError, match="is truncated"):
        VideoRecords("train", path=str(folder))
    shard.write_bytes(b"\x1f\x8b gzip or whatever")
    with pytest.raises(ValueError, match="not a TFRecord file without compression"):
        VideoRecords("train", path=str(folder))


def test_missing_shards_are_named(folder):
    os.remove(folder / "train-00001-of-00003")
    with pytest.raises(ValueError, match="holds 2 of 3 files of train; 1 are missing: 00001"):
        VideoRecords("train", path=str(folder))
    with pytest.raises(ValueError, match=r"no files val-00000-of-\.\.\.; it has train"):
        VideoRecords("val", path=str(folder))
    with pytest.raises(ValueError, match="is not a folder"):
        VideoRecords("train", path=str(folder / "nowhere"))
    shutil.copy(folder / "train-00000-of-00003", folder / "train-00000-of-00002")
    with pytest.raises(ValueError, match="several conversions of train, into 00002, 00003 files"):
        VideoRecords("train", path=str(folder))


@pytest.mark.parametrize(
    ("payloads", "words"),
    [
        ([record_format.sequence_example({"a": 1}, [b"GIF89a"])], "does not hold JPEG files"),
        ([b"hello, this is a text"], "not a serialised SequenceExample"),
        ([example(0, clip_fps=None)], "1 videos of .* have no frame rate .* 0.mp4; set fps"),
        (
            [example(0), example(1, clip_label_index=None)],
            "some videos have a label .* and others have none",
        ),
        ([example(0, clip_label_index=2**40)], "labels .* are from 1099511627776 to"),
        ([example(0, clip_label_index=-1)], "labels .* are from -1 to -1; expected 0 to 999999"),
        ([example(0, clip_label_index="ant")], "expected at most one whole number"),
        ([], "no usable video"),
    ],
)
def test_invalid_records_are_explained(payloads, words, tmp_path):
    write_shards(tmp_path, [payloads])
    with pytest.raises(ValueError, match=words):
        VideoRecords("train", path=str(tmp_path))


def test_frame_rate_and_classes_can_be_given(tmp_path):
    write_shards(tmp_path, [[example(1, clip_fps=None, clip_label_text=None)]], "val.tfrecord")
    source = VideoRecords("val", path=str(tmp_path), fps=10)
    assert source.class_names == ("0", "1")
    with source.read(0).data.open() as video:
        assert video.fps == 10
    (tmp_path / "classes.txt").write_text("wasp\nbee\ncat\n")
    assert VideoRecords("val", path=str(tmp_path), fps=10).class_names == ("wasp", "bee", "cat")
    (tmp_path / "classes.txt").write_text("wasp\n")
    with pytest.raises(ValueError, match="names 1 classes, but the largest label is 1"):
        VideoRecords("val", path=str(tmp_path), fps=10)


def test_the_limit_of_pixels_is_that_of_the_view(tmp_path):
    write_shards(tmp_path, [[example(0)]])
    video = VideoRecords("train", path=str(tmp_path)).read(0).data
    pixels = video.record.height * video.record.width
    with pytest.raises(BadMedia, match=rf"pixels, the limit is {pixels - 1} \(max_pixels\)"):
        EvalView(size=8, max_pixels=pixels - 1)(video, None)
    assert EvalView(size=8, max_pixels=pixels)(video, None).shape == (1, 1, 8, 8, 3)


def test_frames_of_another_size_or_none_are_bad_inputs(tmp_path):
    whole = jpeg(3)
    images = [jpeg(0), jpeg(1, (40, 30)), b"\xff\xd8\xff nothing", whole[:-200]]
    images += [jpeg(4) + b"\0\0", b"\xff\xd8\xff nothing\xff\xd9"]
    write_shards(tmp_path, [[example(0, images)]])
    source = VideoRecords("train", path=str(tmp_path))
    assert decode(source, 0, [0]).shape == (1, HEIGHT, WIDTH, 3)
    with pytest.raises(BadMedia, match="frame 1 has 40x30 pixels, expected 36x24"):
        decode(source, 0, [1])
    assert np.array_equal(decode(source, 0, [4])[0], pillow(jpeg(4)))  # padded
    for frame, words in ((2, "not a JPEG file"), (3, "truncated"), (5, "damaged JPEG")):
        with pytest.raises(BadMedia, match=f"frame {frame} is .*{words}"):
            decode(source, 0, [frame])


def test_fingerprint_is_of_the_files(folder):  # and not of the folder, see contracts_test
    write_shards(folder, [[example(v) for v in range(8)]], "val")
    train, val = (VideoRecords(split, path=str(folder)) for split in ("train", "val"))
    assert train.fingerprint != val.fingerprint
