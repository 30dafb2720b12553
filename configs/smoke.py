"""Smoke: does training work at all? MaskFeat on drawn pictures; for trying changes.

Source: none; shorter than `demo_images.py`.
Expect: a loss that falls.
Cost: half a minute on two CPU cores.
Run: python main.py --config=configs/smoke.py --workdir=runs/smoke
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.task = "pretrain"
    config.data = dict(name="shapes", num_examples=4096)
    config.eval_data = dict(split="test", num_examples=512)
    config.view = dict(size=32, crop_area=(0.8, 1.0))
    config.eval_view = dict(resize=32)
    config.normalise = dict(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    config.mask = dict(name="random", ratio=0.4)
    config.target = dict(name="hog", cell=4)
    config.model = dict(encoder="vit_ti16", tubelet=(1, 8, 8), width=96, depth=4, heads=4)
    config.head = dict(name="maskfeat")
    config.optim = dict(name="adamw", lr=2e-3, lr_batch=64, warmup_epochs=0.5, clip_norm=1.0)
    config.run = dict(epochs=4.0, batch_size=64, log_every_steps=32, pictures_every_epochs=2.0)
    return config
