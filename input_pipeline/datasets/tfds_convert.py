"""Rewrites a dataset of TensorFlow Datasets from TFRecord to array_record, for random access.

    python -m input_pipeline.datasets.tfds_convert DATA/imagenet2012/5.1.0 OTHER/imagenet2012/5.1.0

Records are copied byte for byte, in the same order; nothing is downloaded. An interrupted
conversion continues when run again. (`tfds convert_format` does the same, but needs apache-beam and
mlcroissant.)
"""

from __future__ import annotations

import json
import shutil
import sys

from input_pipeline.paths import local_path
from input_pipeline.tf_data import tf

_DESCRIPTION = "dataset_info.json"  # written last: without it the copy is not a dataset


def convert(version_dir: str, out_dir: str) -> None:
    """Converts all shards of one version of a dataset, the folder that contains dataset_info.json.

    Both paths must end in dataset/version or dataset/config/version, by which TFDS finds them.

    Raises:
      ValueError: `version_dir` is not a dataset in TFRecord format, or shards are missing.
    """
    from array_record.python import array_record_module

    source, target = local_path(version_dir), local_path(out_dir)
    if not (source / _DESCRIPTION).is_file():
        raise ValueError(f"{source} holds no {_DESCRIPTION}; it is not a prepared dataset")
    description = json.loads((source / _DESCRIPTION).read_text("utf-8"))
    if description.get("fileFormat") != "tfrecord":
        raise ValueError(f"{source} is stored as {description.get('fileFormat')}, not as tfrecord")
    shards = sorted(source.glob("*.tfrecord-*"))
    expected = sum(len(split["shardLengths"]) for split in description["splits"])
    if len(shards) != expected:
        raise ValueError(f"{source} is incomplete: it holds {len(shards)} of {expected} shards")
    target.mkdir(parents=True, exist_ok=True)
    for done, shard in enumerate(shards, start=1):
        copy = target / shard.name.replace(".tfrecord-", ".array_record-")
        if not copy.exists():
            partial = copy.with_name(f"partial.{copy.name}")
            # One record in each group, so that reading it does not decompress its neighbours.
            writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
            for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
                writer.write(record)
            writer.close()
            partial.rename(copy)
        print(f"\r{done}/{len(shards)} shards", end="", flush=True)
    for other in source.iterdir():
        if other.is_file() and other not in shards and other.name != _DESCRIPTION:
            shutil.copy(other, target)
    description["fileFormat"] = "array_record"
    (target / _DESCRIPTION).write_text(json.dumps(description, indent=2), "utf-8")
    print(f"\nwritten to {target}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        convert(*sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
