"""Demo of a sweep: pixels or HOG, drawn shapes, three seeds of a classifier. A minute or two.

Too short to say which is better; see demo_images.py.

Run: python main.py sweep --config=configs/sweeps/demo.py --workdir=runs/sweep
"""

from ml_collections import ConfigDict

RECIPE = "configs/demo_images.py"


def get_config():
    config = ConfigDict(dict(seeds=3))
    short = dict(model=dict(width=48, depth=2))
    config.common = short
    config.stages = dict(
        pretrain=dict(config=f"{RECIPE}:pretrain", seeds=1),
        finetune=dict(config=f"{RECIPE}:finetune", init_from="pretrain"),
    )
    config.stages.pretrain.changes = dict(data=dict(num_examples=1024), run=dict(epochs=4.0))
    config.stages.finetune.changes = dict(
        data=dict(num_examples=500), eval_data=dict(num_examples=500), run=dict(epochs=4.0)
    )
    config.rows = [
        dict(name="none", pretrain=None, finetune=dict(optim=dict(layer_decay=1.0))),
        dict(name="pixels", pretrain=dict(target=dict(name="pixels"))),
        dict(name="hog"),
    ]
    return config
