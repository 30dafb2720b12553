from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from input_pipeline import BadInput, BadInputs, EvalView, ImageFolder, Loader, TrainView
from input_pipeline.bad_inputs import BadMedia
from tests.input_pipeline.samples import tensor_file


def label_map(seed: int, classes: int = 10, shape: tuple[int, ...] = (2, 3, 4)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.normal(size=shape), rng.integers(0, classes, shape)]).astype(np.float16)


@pytest.fixture
def maps(tree):
    """A label map of 2 classes at 3x4 positions for each training image of `tree`."""
    for seed, image in enumerate(sorted((tree / "train").rglob("*.jpg"))):
        file = tree / "maps" / image.relative_to(tree / "train").with_suffix(".pt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tensor_file(label_map(seed)))
    return tree / "maps"


def source(tree, split="train", classes=10):
    return ImageFolder(split, path=str(tree), label_maps=str(tree / "maps"), map_classes=classes)


def test_each_image_has_the_map_of_its_name(tree, maps):
    images = source(tree)
    assert images.label_maps.shape == (2, 3, 4)
    for index in (0, 5, 11):
        logits, classes = images.label_maps.of(index)
        assert (logits.dtype, classes.dtype) == (np.float16, np.int16)
        np.testing.assert_array_equal([logits, classes], label_map(index))


def test_maps_of_several_splits_are_in_folders_of_splits(tree, maps):
    with pytest.raises(ValueError, match="put the label maps of split 'val' into"):
        source(tree, "val")
    maps.rename(tree / "train_maps")
    maps.mkdir()
    (tree / "train_maps").rename(maps / "train")
    np.testing.assert_array_equal(source(tree).label_maps.of(3).logits, label_map(3)[0])
    with pytest.raises(ValueError, match="maps has no split 'val'; it has train"):
        source(tree, "val")


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (None, "missing", "No such file"),
        (b"", "decode_error", "not an archive of torch.save"),
        (tensor_file(label_map(0, shape=(2, 3, 3))), "decode_error", "expected (2, 2, 3, 4)"),
        (tensor_file(label_map(0)[0]), "decode_error", "shape (2, 3, 4), expected (2, 2, 3, 4)"),
        (tensor_file(label_map(0) + 10), "decode_error", "expected whole numbers from 0 to 9"),
        (tensor_file(label_map(0) - 10), "decode_error", "expected whole numbers from 0 to 9"),
        (tensor_file(label_map(0)[::-1].copy()), "decode_error", "expected whole numbers"),
        (tensor_file(label_map(0) * np.inf), "decode_error", "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_wrong_map_makes_its_image_a_bad_input(tree, maps, content, kind, words):
    file = maps / "bee" / "1.pt"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(BadMedia, match=re.escape(words)) as caught:
        source(tree).label_maps.of(5)
    assert caught.value.kind == kind
    assert str(file) in caught.value.reason


def test_training_counts_images_without_map_and_evaluation_refuses_them(tree, maps):
    (maps / "bee" / "1.pt").unlink()
    bad = BadInputs(max_fraction=1.0).list_in(tree / "bad_inputs.jsonl")
    view = {"size": 16}
    loader = Loader(source(tree), TrainView(**view), batch_size=12, bad_inputs=bad)
    batch = next(loader.train_batches())
    np.testing.assert_array_equal(batch["index"][~batch["valid"]], [5])
    assert not batch["map_logits"][~batch["valid"]].any()
    assert bad.files == 1
    assert "bee/1.pt" in (tree / "bad_inputs.jsonl").read_text()
    testing = Loader(source(tree), EvalView(**view), batch_size=12)
    with pytest.raises(BadInput, match=r"bee/1\.jpg cannot be used \(missing: label map .*1\.pt"):
        list(testing.eval_batches())
    (skipped,) = testing.eval_batches("skip")
    assert skipped["valid"].sum() == 11


def test_no_map_at_all_is_refused(tree, maps):
    with pytest.raises(ValueError, match=r"none of the first 12 images.*ant/0\.pt: class"):
        source(tree, classes=1)
    with pytest.raises(ValueError, match="map_classes is 0"):
        source(tree, classes=0)
    maps.rename(tree / "away")
    with pytest.raises(ValueError, match="maps is not a folder; set label_maps to the root of"):
        source(tree)


def test_clips_of_a_batch_have_maps_and_boxes(tree, maps):
    loader = Loader(source(tree), TrainView(size=16, repeats=2), batch_size=8, workers=2)
    for batch in itertools.islice(loader.train_batches(), 2):
        assert {key: (batch[key].shape, batch[key].dtype) for key in ("box", "map_classes")} == {
            "box": ((8, 4), np.float32),
            "map_classes": ((8, 2, 3, 4), np.int16),
        }
        for index, *found in zip(
            batch["index"], batch["map_logits"], batch["map_classes"], strict=True
        ):
            np.testing.assert_array_equal(found, label_map(index))
        assert len(np.unique(batch["box"], axis=0)) == 8
    padded = list(Loader(source(tree), EvalView(size=16), batch_size=8).eval_batches())[-1]
    assert not padded["box"][4:].any()
    assert "box" not in next(
        Loader(ImageFolder(path=str(tree)), EvalView(), batch_size=1).eval_batches()
    )
