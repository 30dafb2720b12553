"""A dataset in the layout of AVA, with frames that show their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tests.input_pipeline.samples import encode

ACTIONS = [  # the first ones of each kind, and how many follow
    ("PERSON_MOVEMENT", 14),
    ("OBJECT_MANIPULATION", 49),
    ("PERSON_INTERACTION", 17),
]
NOT_SCORED = {2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75}
KINDS = [kind for kind, count in ACTIONS for _ in range(count)]
HEADER = "original_vido_id video_id frame_id path labels"


def coloured(number: int, height: int = 16, width: int = 24) -> np.ndarray:
    """A frame of one colour, which tells its number, below 32,768."""
    colour = [(number >> shift) % 32 * 8 + 4 for shift in (10, 5, 0)]
    return np.broadcast_to(np.uint8(colour), (height, width, 3))


def numbers_of(clip: np.ndarray) -> list[int]:
    """The numbers of frames by their colours."""
    digits = clip.mean((1, 2)).astype(np.int64) // 8
    return (digits @ [1024, 32, 1]).tolist()


def write_frames(root: Path, video: str, numbers: Iterable[int]) -> None:
    """Writes JPEG files of some frames, counted from 0, as FFmpeg names them."""
    folder = root / "frames" / video
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{video}_{number + 1:06d}.jpg").write_bytes(encode(coloured(number), quality=95))


def frame_list(counts: Mapping[str, int]) -> str:
    """The list of the frames of videos."""
    lines = [HEADER]
    for row, (video, count) in enumerate(counts.items()):
        lines += [f'{video} {row} {i} {video}/{video}_{i + 1:06d}.jpg ""' for i in range(count)]
    return "\n".join(lines) + "\n"


def label_map(ids: Iterable[int], key: str = "id", kinds: bool = False) -> str:
    """The text of a label map."""
    return "".join(
        f'item {{\n  name: "act {i} (e.g., {{x}})"\n  {key}: {i}\n'
        + (f"  label_type: {KINDS[i - 1]}\n}}\n" if kinds else "}\n")
        for i in ids
    )


def write_ava(root: Path, **texts: str) -> Path:
    """The annotations of two videos, `a-b_c` and `v2`; `texts` replace files of these names."""
    files = {
        "annotations/ava_train_v2.2.csv": """
a-b_c,0902,0.1,0.2,0.5,0.9,12,0
a-b_c,0902,0.1,0.2,0.5,0.9,80,0
a-b_c,0902,0.6,0.1,0.9,0.9,1,1
v2,0904,0.000,0.000,1.000,1.000,2,7
a-b_c,0901,0.1,0.2,0.5,0.9,12,0
""",
        "annotations/ava_val_v2.2.csv": """
a-b_c,0902,0.1,0.2,0.5,0.9,12,0
a-b_c,0902,0.1,0.2,0.5,0.9,80,0
a-b_c,0904,0.6,0.1,0.9,0.9,1,1
v2,0903,0.5,0.5,0.8,0.8,3,2
""",
        "annotations/ava_val_predicted_boxes.csv": """
a-b_c,0902,0.110,0.200,0.500,0.900,,0.98
a-b_c,0902,0.3,0.2,0.5,0.9,,0.5
v2,0904,0.5,0.5,0.8,0.8,,0.95
v2,0903,0.5,0.5,0.8,0.8,,0.89
""",
        "annotations/ava_train_excluded_timestamps_v2.2.csv": "",
        "annotations/ava_val_excluded_timestamps_v2.2.csv": "a-b_c,0904\n",
        "annotations/ava_action_list_v2.2.pbtxt": label_map(range(1, 81), "label_id", kinds=True),
        "annotations/ava_action_list_v2.2_for_activitynet_2019.pbtxt": label_map(
            i for i in range(1, 81) if i not in NOT_SCORED
        ),
        "frame_lists/train.csv": frame_list({"a-b_c": 130, "v2": 130}),
        "frame_lists/val.csv": frame_list({"a-b_c": 130, "v2": 130}),
    }
    short = {Path(name).stem: name for name in files}
    files |= {short.get(name, name): text for name, text in texts.items()}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.lstrip())
    for video in ("a-b_c", "v2"):
        write_frames(root, video, (30, 60, 120))
    return root
