from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.datasets.class_files import class_lines, labels_from_one, read_class_names
from input_pipeline.texts import name_bytes


def write(folder: Path, text: str | bytes, name: str = "classes.txt") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("ant\nriding a bike\n", ["ant", "riding a bike"]),
        (" ant \r\n\tbee\r\n\r\n", ["ant", "bee"]),
        ("ant\rbee\r", ["ant", "bee"]),
        ("\ufeffant\nbee", ["ant", "bee"]),
        ("caf\u00e9\nbee\n".encode("utf-16"), ["caf\u00e9", "bee"]),
        # Characters at which `str.splitlines` cuts, and `str.strip` strips.
        ("a\u2028b\nc\u0085\nd\x0be\x0cf\x1c\n", ["a\u2028b", "c\u0085", "d\x0be\x0cf\x1c"]),
        ("#1\n# two\n", ["#1", "# two"]),
        ('"ant"\n"say ""hi"""\n"a\\nb"\n', ["ant", 'say "hi"', "a\nb"]),
        ("Putting something, something\nTaking 2, 3\n", None),
        ("stage 0\nstage 1\n", None),
        ("Boeing 737\nAirbus 320\n", None),
        ("100 metres\n4 x 4\n", None),
        ("1 person\n2 persons\n3 persons\n", None),
        ("3\n5\n", None),
        # Tables, as for Kinetics, with and without their header.
        ("id,name\n0,ant\n1,bee\n", ["ant", "bee"]),
        ('id,name\n0,"ant, red"\n1,bee\n', ["ant, red", "bee"]),
        ("0,ant\n1,bee\n", ["ant", "bee"]),
        ("0,ant, red\n1,bee\n", ["ant, red", "bee"]),
        ("1 bee\n0 ant\n", ["ant", "bee"]),
        ("label\tid\nbee\t1\nriding a bike\t0\n", ["riding a bike", "bee"]),
        ("name;class_id\nbee;1\nant;0\n", ["ant", "bee"]),
        ("bee 1\nant 0\n", ["ant", "bee"]),
        ("Kennzahl;Art\n0;Ameise\n1;Biene\n", ["Ameise", "Biene"]),
    ],
)
def test_forms_of_class_files(tmp_path, text, names):
    expected = text.splitlines() if names is None else names
    assert read_class_names(write(tmp_path, text)) == tuple(expected)


@pytest.mark.parametrize(
    "content",
    [
        ["ant", "bee"],
        {"bee": 1, "ant": 0},
        {"bee": "1", "ant": "0"},
        {"1": "bee", "0": "ant"},
        {'"bee"': 1, '"ant"': 0},
    ],
)
def test_json(tmp_path, content):
    file = write(tmp_path, json.dumps(content), "classes.json")
    assert read_class_names(file) == ("ant", "bee")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.txt", "", "has no names"),
        ("c.txt", "\n\n", "has no names"),
        ("c.txt", "ant\n\nbee\n", "line 2: no name; expected one per line"),
        ("c.txt", "ant\nbee\nant\n", "line 3: 'ant' is also in line 1; names must differ"),
        (
            "c.txt",
            b"ant\ncaf\xe9\n",
            r"line 2: b'caf.xe9' is not UTF-8; save the file as UTF-8.*iconv",
        ),
        ("c.txt", "ant\n".encode("utf-16")[2:], "line 1: a NUL byte; save the file as UTF-8"),
        ("c.txt", "ant\n".encode("utf-16")[:-1], "is not valid UTF-16"),
        ("c.txt", "ant\rbee\ncat\n", "line 1: a carriage return"),
        ("c.txt", "name\nant\nbee\n", "line 1: 'name' may be a header, .*in double quotes"),
        ("c.txt", "# classes\nant\nbee\n", "line 1: '# classes' may be a header, a comment"),
        ("c.txt", "{0: 'ant',\n1: 'bee'}\n", "line 1: .* may be .* JSON; remove it, name the"),
        ("c.txt", "id,name,kind\n0,ant,x\n1,bee,y\n", "3 columns, 'id,name,kind'; expected a"),
        ("c.txt", "0 ant\n2 bee\n", "each once, but 1 is missing; .*each name in double quotes"),
        ("c.txt", "id,name\nant\nbee\n", "line 1, 'id,name', is the header .*not all other lines"),
        ("c.txt", "id,name\n0,ant\n1,ant\n", "line 3: 'ant' is also in line 2"),
        ("c.txt", "1 ant\n2 bee\n", "numbers its classes from 1 to 2; class indices start at 0"),
        ("c.txt", "0,ant\n2,bee\n", "numbers 0 to 1, each once, but 1 is missing"),
        (
            "c.txt",
            "Kennzahl;Art\n5;Ameise\n7;Biene\n",
            "numbers 0 to 1, each once, but 0 is missing",
        ),
        ("c.json", "{", "c.json is not JSON"),
        ("c.json", '{"ant": "insect"}', "expected a list of names, or a table"),
        ("c.json", '["ant", 3]', "expected a list of names, or a table"),
        ("c.json", '{"ant": 1, "bee": 2}', "numbers its classes from 1 to 2"),
    ],
)
def test_what_is_not_clear_is_an_error(tmp_path, name, text, words):
    with pytest.raises(ValueError, match=words) as caught:
        read_class_names(write(tmp_path, text, name))
    assert name in str(caught.value)


NAMES = st.one_of(
    st.text(min_size=1).filter(lambda name: not any("\ud800" <= c <= "\udfff" for c in name)),
    st.binary(min_size=1).map(os.fsdecode),
    st.sampled_from(
        ["id", "name", "id,name", "0,ant", "1 bee", '"cat"', " dog ", "a\nb", "#", "0"]
    ),
)


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_any_names_come_out_as_they_went_in(tmp_path_factory, names):
    file = tmp_path_factory.getbasetemp() / "classes.txt"
    file.write_bytes(name_bytes(class_lines(names)))
    assert read_class_names(file) == tuple(names)


def test_ordinary_names_are_written_one_per_line():
    assert class_lines(["ant", "caf\u00e9", "riding a bike"]) == "ant\ncaf\u00e9\nriding a bike\n"


@pytest.mark.parametrize(
    ("labels", "from_one"),
    [([1, 2, 3, 2], True), ([0, 1, 2], False), ([1, 3], False), ([1], False), ([2, 3], False)],
)
def test_labels_from_one(labels, from_one):
    assert bool(labels_from_one(labels)) == from_one
