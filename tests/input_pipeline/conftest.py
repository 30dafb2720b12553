from __future__ import annotations

from pathlib import Path

import pytest

from tests.input_pipeline.samples import encode, picture


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """train/{ant,bee,cat}/ with 4 JPEG files each, val/ with 2."""
    for split, count in (("train", 4), ("val", 2)):
        for number, name in enumerate(("ant", "bee", "cat")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.jpg").write_bytes(encode(picture(10 * number + index)))
    return tmp_path
