"""Images and videos from disk to batches of `uint8` clips, on the host, with tf.data.

The two calls that a program makes:

    source = DATASETS[name](split="train", **section)      # e.g. path=..., see each class
    loader = Loader(source, TrainView(size=224), batch_size=2048, seed=0)
    for batch in loader.train_batches(start_step=step):    # endless; or loader.eval_batches()
        ...

A *source* knows the examples and reads one; a *view* turns what was read into clips of fixed
shape (`TrainView`: random frames and crops, `EvalView`: fixed ones); the `Loader` decides which
examples come when, runs both on threads and batches. Sources, views and `BadInputs` are each one
section of a recipe.

    source.num_examples, .class_names (None: no labels), .name_of(index), .read(index), .fingerprint
    loader.steps_per_epoch  batches in an epoch of training, perhaps a fraction
    loader.eval_steps       batches in one evaluation pass, the same on each process
    loader.views            rows of each example in a pass

A batch holds the rows of this process, b = batch_size / process_count:

    video  (b, t, size, size, 3) uint8   RGB; an image is a clip of t = 1 frame
    label  (b,) int32                    absent when the source has no labels
    valid  (b,) bool                     False: padding of evaluation, or a file that cannot be read
    index  (b,) int64                    which example of the source; -1 for padding
    view   (b,) int32                    which clip of the example

and, of a source with label maps (see `label_maps.LabelMaps`):

    map_logits   (b, k, h, w) float16    of the whole image
    map_classes  (b, k, h, w) int16      classes of these logits
    box          (b, 4) float32          the clip in it: left, top, right, bottom, as fractions

and instead of labels, of a source with boxes (see `boxes.LabelledBoxes`), as many as the example
with most of them has:

    boxes        (b, m, 4) float32       left, top, right, bottom, in pixels of the clip
    box_classes  (b, m, classes) bool    classes of each
    box_valid    (b, m) bool             False: padding

The clips of an example follow each other. Which example a row holds, its frames, crop and
augmentation are functions of (seed, pass, position) alone: neither workers, nor processes, nor the
step at which iteration starts change them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from input_pipeline.bad_inputs import BadInput, BadInputs, TooManyBadInputs
    from input_pipeline.datasets import (
        DATASETS,
        ActingShapes,
        Ava,
        ImageFolder,
        MovingShapes,
        Shapes,
        Ssv2,
        Tfds,
        VideoFolder,
        VideoList,
        VideoRecords,
    )
    from input_pipeline.full_frames import FullFrameLoader
    from input_pipeline.loader import Loader
    from input_pipeline.source import Example, Source
    from input_pipeline.views.eval import EvalView
    from input_pipeline.views.train import TrainView

__all__ = [
    "DATASETS",
    "ActingShapes",
    "Ava",
    "BadInput",
    "BadInputs",
    "EvalView",
    "Example",
    "FullFrameLoader",
    "ImageFolder",
    "InputNotInstalled",
    "Loader",
    "MovingShapes",
    "Shapes",
    "Source",
    "Ssv2",
    "Tfds",
    "TooManyBadInputs",
    "TrainView",
    "VideoFolder",
    "VideoList",
    "VideoRecords",
]

# Modules are imported when one of their names is first used, as some need PyAV and OpenCV. All
# other names are in `datasets`.
_MODULES = {
    "BadInput": "bad_inputs",
    "BadInputs": "bad_inputs",
    "EvalView": "views.eval",
    "Example": "source",
    "FullFrameLoader": "full_frames",
    "Loader": "loader",
    "Source": "source",
    "TooManyBadInputs": "bad_inputs",
    "TrainView": "views.train",
}


class InputNotInstalled(ImportError):
    """A library that reads images or videos is not installed; says how to install it."""

    def __init__(self, error: ImportError):
        super().__init__(
            f'reading images and videos needs: pip install "maskfeat_jax[input]" ({error})'
        )


if not TYPE_CHECKING:  # a type checker would take any name for one of this package

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'datasets')}")
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith(__name__):
                raise
            raise InputNotInstalled(error) from error
        return getattr(module, name)
