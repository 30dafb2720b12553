from __future__ import annotations

import jax
import pytest

from maskfeat_jax.distributed import compare as comparing
from maskfeat_jax.distributed.compare import ProcessesDiffer, code_hash, compare, facts_of


def test_the_hash_of_the_code_sees_each_byte_and_each_name(tmp_path):
    def write(**files: str) -> str:
        for name in ("maskfeat_jax", "input_pipeline"):
            (tmp_path / name).mkdir(exist_ok=True)
        for path in tmp_path.rglob("*.py"):
            path.unlink()
        for name, text in files.items():
            (tmp_path / name.replace("__", "/")).with_suffix(".py").write_text(text)
        return code_hash(tmp_path)

    hashes = [
        write(main="1", maskfeat_jax__a="2", input_pipeline__b="3"),
        write(main="1", maskfeat_jax__a="2", input_pipeline__b="4"),
        write(main="1", maskfeat_jax__a="2", input_pipeline__c="3"),
        write(main="5", maskfeat_jax__a="2", input_pipeline__b="3"),
        write(main="1", maskfeat_jax__a="23", input_pipeline__b=""),
    ]
    assert len(set(hashes)) == len(hashes)
    again = write(input_pipeline__b="3", maskfeat_jax__a="2", main="1", elsewhere="9")
    assert again == hashes[0]
    assert facts_of({})["code"] == code_hash() != hashes[0]


def test_a_table_of_many_processes_stays_short():
    rows = [(f"h{i}", {"jax": "1"}) for i in range(100)]
    rows[7] = ("h7", {"jax": "2", "av": "3"})
    text = comparing._table(rows)
    assert "    1: process 0 (h0), 1 (h1)" in text
    assert "and 91 more" in text
    assert "    2: process 7 (h7)" in text
    assert "    3: process 7 (h7)" in text
    assert len(text) < 500


def test_processes_with_different_numbers_of_devices_differ(monkeypatch):
    class Device:
        process_index = 0

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "devices", lambda: [Device()] * 3)
    with pytest.raises(ProcessesDiffer, match="process 0 has 3, process 1 has 0"):
        compare({})
