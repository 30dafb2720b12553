"""Datasets: which examples there are, and how one is read.

To add one: a class with the members of `input_pipeline.source.Source`, and its line in `DATASETS`.
"""

from __future__ import annotations

from input_pipeline.datasets.acting_shapes import ActingShapes
from input_pipeline.datasets.ava import Ava
from input_pipeline.datasets.folders import ImageFolder, VideoFolder
from input_pipeline.datasets.moving_shapes import MovingShapes
from input_pipeline.datasets.shapes import Shapes
from input_pipeline.datasets.ssv2 import Ssv2
from input_pipeline.datasets.tfds import Tfds
from input_pipeline.datasets.video_lists import VideoList
from input_pipeline.datasets.video_records import VideoRecords
from input_pipeline.source import Source

DATASETS: dict[str, type[Source]] = {
    "ava": Ava,
    "acting_shapes": ActingShapes,
    "image_folder": ImageFolder,
    "moving_shapes": MovingShapes,
    "shapes": Shapes,
    "ssv2": Ssv2,
    "tfds": Tfds,
    "video_folder": VideoFolder,
    "video_list": VideoList,
    "video_records": VideoRecords,
}
