"""Demo of a sweep: does pre-training help? Two seeds of a classifier of drawn shapes.

Shorter than demo_images.py, from which the recipes are. Expect: top-1 of 62 % after pre-training
with HOG, 14 % without.

Run: python main.py sweep --config=configs/sweeps/demo.py --workdir=runs/sweep
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict(dict(seeds=2))
    config.stages = dict(
        pretrain=dict(config="configs/demo_images.py:pretrain", seeds=1),
        finetune=dict(config="configs/demo_images.py:finetune", init_from="pretrain"),
    )
    config.stages.pretrain.changes = dict(run=dict(epochs=5.0))
    config.stages.finetune.changes = dict(run=dict(epochs=8.0))
    config.rows = [
        dict(name="none", pretrain=None, finetune=dict(config="configs/demo_images.py:scratch")),
        dict(name="hog"),
    ]
    return config
