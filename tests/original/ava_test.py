"""The lists of AVA against PySlowFast's reader, on seeded random lists."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import pytest

from bench.originals import original
from input_pipeline.datasets.ava import Ava
from input_pipeline.views.sampling import Centred
from tests.input_pipeline.ava_samples import frame_list, write_ava, write_frames

VIDEOS = {"v0": 27030, "-v_1": 26970, "v2": 27028}
FILES = ["more_boxes.csv", "predicted_boxes.csv"]


def random_lists(root: Path, seed: int) -> None:
    """Ground truth, and predicted boxes, with and without a class; some of them are the same."""
    rng = np.random.default_rng(seed)
    texts = {"truth": "", **dict.fromkeys(FILES, "")}
    for video in VIDEOS:
        for second in rng.choice(np.arange(902, 1799), 20, replace=False):
            for _ in range(rng.integers(1, 5)):
                left, right = np.sort(rng.uniform(0, 1, 2))
                top, bottom = np.sort(rng.uniform(0, 1, 2))
                box = f"{video},{second:04d},{left:.3f},{top:.3f},{right:.3f},{bottom:.3f}"
                for action in rng.integers(1, 81, rng.integers(1, 4)):
                    texts["truth"] += f"{box},{action},{rng.integers(9)}\n"
                for name in FILES:
                    action, score = rng.choice(["", "-1", "7", "80"]), rng.uniform(0.7, 1)
                    texts[name] += f"{box},{action},{score:.6f}\n"
    for split in ("train", "val"):
        (root / f"annotations/ava_{split}_v2.2.csv").write_text(texts["truth"])
        (root / f"frame_lists/{split}.csv").write_text(frame_list(VIDEOS))
    for name in FILES:
        (root / "annotations" / name).write_text(texts[name])


@pytest.mark.original("SLOWFAST_DIR")
@pytest.mark.parametrize("mode", ["train", "val", "test"])
def test_key_frames_and_boxes(tmp_path, mode, monkeypatch):
    helper = original("slowfast.datasets.ava_helper")
    monkeypatch.setattr(helper, "pathmgr", types.SimpleNamespace(open=open))
    sequence = original("slowfast.datasets.utils").get_sequence
    root = write_ava(tmp_path)
    random_lists(root, seed=len(mode))
    settings = types.SimpleNamespace(
        FRAME_LIST_DIR=str(root / "frame_lists"),
        FRAME_DIR=str(root / "frames"),
        ANNOTATION_DIR=str(root / "annotations"),
        TRAIN_LISTS=["train.csv"],
        TEST_LISTS=["val.csv"],
        TRAIN_GT_BOX_LISTS=["ava_train_v2.2.csv"],
        TRAIN_PREDICT_BOX_LISTS=FILES,
        TEST_PREDICT_BOX_LISTS=FILES,
        DETECTION_SCORE_THRESH=0.8,
        FULL_TEST_ON_VAL=False,
    )
    cfg = types.SimpleNamespace(AVA=settings)
    paths, names = helper.load_image_lists(cfg, is_train=mode == "train")
    loaded = helper.load_boxes_and_labels(cfg, mode=mode)
    boxes, _ = helper.get_keyframe_data([loaded[name] for name in names])

    lists = [f"annotations/{name}" for name in FILES]
    ours = Ava(
        "train" if mode == "train" else "val",
        path=str(root),
        train_boxes=lists,
        eval_boxes=lists,
        threshold=0.8,
        every=4 if mode == "val" else 1,
        excluded=[],
    )
    assert ours.num_examples == len(boxes) > 10
    for video, _, second, key_frame in boxes:
        example = ours.boxes.keys.index(f"{names[video]},{second:04d}")
        rows = slice(ours.boxes.first[example], ours.boxes.first[example + 1])
        found = [
            (sides.tolist(), set((np.flatnonzero(classes) + 1).tolist()))
            for sides, classes in zip(ours.boxes.sides[rows], ours.boxes.classes[rows], strict=True)
        ]
        theirs = [(box, set(labels) - {-1}) for box, labels in loaded[names[video]][second]]
        assert found == theirs
        write_frames(root, names[video], [key_frame])
        with ours.read(example).data.open() as opened:
            assert (opened.key_frame, opened.num_frames) == (key_frame, len(paths[video]))
            for frames, stride in ((16, 4), (40, 3), (32, 2), (5, 3)):
                clip = Centred(frames, stride).fixed(0, 1, opened.num_frames, 30.0, key_frame)
                their_clip = sequence(key_frame, frames * stride // 2, stride, len(paths[video]))
                assert clip.tolist() == their_clip[:frames]
