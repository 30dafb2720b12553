"""mAP of scores that do not depend on the box, on the test videos of configs/demo_actions.py.

Run: python docs/constant_boxes.py data/acting_shapes
"""

import sys

import numpy as np

from input_pipeline import ActingShapes
from maskfeat_jax.detection import SCORERS, Detections, average_precisions, mean_ap

source = ActingShapes("test", path=sys.argv[1], num_examples=400, detector=True)
boxes, classes = source.boxes, len(source.class_names)
keys = np.repeat(boxes.keys, np.diff(boxes.first))
for name, scores in (
    ("constant", np.ones((len(keys), classes))),
    ("random", np.random.default_rng(0).uniform(size=(len(keys), classes))),
    ("true classes", boxes.classes.astype(float)),
):
    for scorer in SCORERS:
        found = average_precisions(boxes.truth, Detections(keys, boxes.sides, scores), scorer)
        words = [f"{k} {v:.3f}" for k, v in mean_ap(found, boxes.truth.groups).items()]
        print(f"{name}, {scorer}: {', '.join(words)}")
