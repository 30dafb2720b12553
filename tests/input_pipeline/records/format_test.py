from __future__ import annotations

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.records import format as record_format
from input_pipeline.records.format import WrongSchema


@pytest.mark.parametrize(
    ("data", "crc"),
    [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (b"123456789", 0xE3069283)],
)
def test_checksum_of_known_bytes(data, crc):
    assert record_format.crc32c(data) == crc  # RFC 3720, B.4


@given(size=st.integers(4, 3000), seed=st.integers(0, 2**32 - 1))
def test_checksum_of_any_length(size, seed):
    data = (seed.to_bytes(4, "little") * 750)[:size]
    crc = 0xFFFFFFFF
    for byte in data:  # bit by bit, as it is defined
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    assert record_format.crc32c(data) == crc ^ 0xFFFFFFFF


@given(
    label=st.integers(-(2**63), 2**63 - 1),
    text=st.text(),
    fps=st.floats(width=32, allow_nan=False),
    images=st.lists(st.binary(max_size=300), min_size=1, max_size=5),
)
def test_tensorflow_reads_what_is_written(label, text, fps, images):
    payload = record_format.sequence_example(dict(label=label, text=text, fps=fps), images)
    example = tf.train.SequenceExample.FromString(payload)
    context = example.context.feature
    assert context["label"].int64_list.value == [label]
    assert context["text"].bytes_list.value == [text.encode()]
    assert context["fps"].float_list.value == [fps]
    stored = example.feature_lists.feature_list[record_format.IMAGES].feature
    assert [feature.bytes_list.value[:] for feature in stored] == [[image] for image in images]


def feature(*values) -> tf.train.Feature:
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


@given(
    labels=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    images=st.lists(st.binary(max_size=300), min_size=1, max_size=5),
)
def test_reads_what_tensorflow_writes(labels, images):
    example = tf.train.SequenceExample()
    example.context.feature["label"].CopyFrom(feature(*labels))
    example.context.feature["name"].CopyFrom(feature(b"ant", b"bee"))
    example.context.feature["fps"].CopyFrom(feature(0.5, 29.25))
    for key in ("WAVEFORM/feature/floats", record_format.IMAGES):
        for image in images:
            value = feature(image) if key == record_format.IMAGES else feature(0.5)
            example.feature_lists.feature_list[key].feature.append(value)
    payload = example.SerializeToString()
    context, frames = record_format.find_frames(payload)
    assert context == dict(label=labels, name=[b"ant", b"bee"], fps=[0.5, 29.25])
    assert [payload[start : start + length] for start, length in frames] == images


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(payload):
    try:
        _, frames = record_format.find_frames(payload)
    except WrongSchema:
        return
    assert all(start + length <= len(payload) for start, length in frames)


def test_a_clip_in_one_feature_is_named():
    example = tf.train.SequenceExample()
    images = example.feature_lists.feature_list[record_format.IMAGES]
    images.feature.append(feature(b"one", b"two", b"three"))
    with pytest.raises(WrongSchema, match="holds 3 images, not one; write one feature per frame"):
        record_format.find_frames(example.SerializeToString())


def test_a_file_is_read_by_tensorflow(tmp_path):
    payloads = [b"some", b"more" * 100_000, b"least"]
    path = tmp_path / "file"
    path.write_bytes(b"".join(record_format.framed(payload) for payload in payloads))
    assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == payloads
