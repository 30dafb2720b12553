from __future__ import annotations

import unicodedata

import pytest

from input_pipeline import Example
from maskfeat_jax.class_names import Aligned, ClassesDiffer, numbers_of, order_of

BETWEEN = {"owner": "a", "wanted_by": "b"}
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("names", "wanted", "order"),
    [
        (["ant", "bee"], ("ant", "bee"), [0, 1]),
        (["ant", "bee", "cat"], ["cat", "ant", "bee"], [2, 0, 1]),
        (["0", "1", "10", "2"], ["0", "1", "2", "10"], [0, 1, 3, 2]),
        (["ant", NFC], [NFD, "ant"], [1, 0]),
        (["caf\udce9", "ant"], ["ant", "caf\udce9"], [1, 0]),
        # A list of names that has both spellings has two classes.
        ([NFC, NFD, "ant"], ["ant", NFC, NFD], [2, 0, 1]),
        (["crane", "ant", "crane"], ["crane", "ant", "crane"], [0, 1, 2]),
    ],
)
def test_the_same_names_are_aligned(names, wanted, order):
    assert order_of(names, wanted, **BETWEEN).tolist() == order


@pytest.mark.parametrize(
    ("names", "wanted", "sentence"),
    [
        (["ant", "bee", "cat"], ["ant", "bee"], "a and b have .* 3 and 2; only in a: 'cat'$"),
        (["ant"], ["ant", "bee"], "1 and 2; only in b: 'bee'$"),
        (list("abcde"), list("efghi"), "only in a: 'a', 'b', 'c' and 1 more; only in b: 'f', 'g'"),
        (["ant", "a"], ["ant", "\u0430"], r"only in a: 'a'; only in b: '\u0430' \(\\u0430\)"),
        (["ant"], ["ant "], "only in a: 'ant'; only in b: 'ant '"),
        ([NFC, NFD], ["ant", NFC], r"only in a: 'cafe\u0301' \(cafe\\u0301\); only in b: 'ant'"),
        (["crane", "ant", "crane"], ["ant", "crane", "crane"], "'crane' is the name of several"),
        (["crane", "ant"], ["crane", "ant", "crane"], "'crane' is the name of several"),
    ],
)
def test_other_names_are_an_error_that_shows_them(names, wanted, sentence):
    with pytest.raises(ClassesDiffer, match=sentence):
        order_of(names, wanted, **BETWEEN)


def test_folders_named_by_numbers():
    assert numbers_of([str(n) for n in sorted(map(str, range(12)))]).tolist() == [
        0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9
    ]  # fmt: skip
    assert numbers_of(["n01", "n02"]).tolist() == [0, 1]
    assert numbers_of([str(n) for n in sorted(map(str, range(1, 12)))]).tolist() == [
        0, 9, 10, 1, 2, 3, 4, 5, 6, 7, 8
    ]  # fmt: skip
    assert numbers_of(["10", "20", "5"]).tolist() == [0, 1, 2]  # names, such as of coins


def test_labels_of_a_dataset_follow_another_list():
    class Source:
        class_names, num_examples, flippable = ("cat", "ant", "bee"), 3, False

        def name_of(self, index):
            return f"file {index}"

        def read(self, index):
            return Example(b"", index)

    aligned = Aligned(Source(), ["ant", "bee", "cat"], **BETWEEN)
    named = [aligned.class_names[aligned.read(i).label] for i in range(3)]
    assert named == ["cat", "ant", "bee"]
    assert (aligned.name_of(1), aligned.flippable, aligned.num_examples) == ("file 1", False, 3)
    with pytest.raises(ClassesDiffer, match="only in b: 'cat'"):
        Aligned(Source(), ["ant", "bee"], **BETWEEN)
