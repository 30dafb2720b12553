"""Demo: actions of several shapes in a video, as on AVA: each box has a motion and an outline.

    expect: mAP with the boxes of a detector, on test videos      cost: on two CPU cores
    95 %: motions 100, outlines 98, near another 57; constant 21  about six minutes

The middle frame alone does not show the motions. Found by trying, see docs/experiments.md.

Run: python main.py --config=configs/demo_actions.py --workdir=runs/demo_actions
"""

from ml_collections import ConfigDict

from maskfeat_jax.configs import common


def get_config():
    config = ConfigDict(dict(task="detect"))
    config.data = dict(name="acting_shapes", num_examples=4000, detector=True)
    config.eval_data = dict(split="test", num_examples=400)
    config.view = dict(size=64, frames=8, sampling="centred", scale_jitter=(64, 72))
    config.view.update(interpolation="bilinear", antialias=False)
    config.eval_view = dict(resize=64)
    config.augment = dict(flip=0.0)  # left and right tell classes apart
    config.normalise = dict(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    config.model = dict(encoder="vit_ti16", tubelet=(2, 8, 8), width=96, depth=4, heads=4)
    config.head = dict(name="boxes", num_classes=11, dropout=0.0)
    config.optim = dict(name="adamw", lr=1e-3, lr_batch=32, warmup_epochs=1.0, clip_norm=1.0)
    config.run = dict(epochs=6.0, batch_size=32, **common.AT_THE_END)
    return config
