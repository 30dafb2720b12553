"""Makes the indexes of TFRecord files of videos; otherwise training makes them when it starts.

    python -m input_pipeline.records FOLDER

Reads each file of FOLDER once, on all cores, and verifies all checksums; files that have an index
are not read again. Needed once for files that `input_pipeline.prepare` did not write, such as those
of dmvr and scenic.
"""

from __future__ import annotations

import sys
from pathlib import Path

from input_pipeline.paths import NotLocal, local_path
from input_pipeline.records.index import open_indexes
from input_pipeline.texts import escape_unprintable


def main(folder: Path) -> None:
    """Indexes all files `<split>-00000-of-00010` and so on of a folder.

    Raises:
      SystemExit: no such files, or some are truncated or have other contents.
      OSError: a file cannot be read.
    """
    escape_unprintable()
    shards = sorted(path for path in folder.glob("*-of-*") if path.suffix != ".index")
    if not shards:
        sys.exit(f"{folder} holds no files such as train-00000-of-00010")
    try:
        indexes = open_indexes(shards)
    except ValueError as error:
        sys.exit(str(error))
    records = [record for index in indexes for record in index.records]
    damaged = [record.damage for record in records if record.damage is not None]
    print(f"{len(records):,} videos in {len(shards):,} files, {len(damaged):,} damaged")
    for damage in damaged[:20]:
        print(damage)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    try:
        main(local_path(sys.argv[1]))
    except NotLocal as error:
        sys.exit(str(error))
