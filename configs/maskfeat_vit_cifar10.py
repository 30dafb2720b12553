"""MaskFeat, a small ViT, CIFAR-10 as a folder of images, three epochs.

The experiment of docs/experiments.md: does predicting features of masked patches help when labels
are few? Made for two CPU cores, not for a record.

    target  expect: loss on test images, of the best constant  cost: on two CPU cores
    hog     0.055, 0.061                                       about five minutes
    pixels  0.44, 0.98                                         about five minutes

Run: python main.py --config=configs/maskfeat_vit_cifar10.py:hog --workdir=runs/cifar-hog \
         --config.data.path=cifar10
"""

from maskfeat_jax.configs import common

TARGETS = {"hog": dict(name="hog", cell=4), "pixels": dict(name="pixels")}


def get_config(target="hog"):
    config = common.cifar10("pretrain")
    config.view = dict(size=32, crop_area=(0.5, 1.0))
    config.mask = dict(name="random", ratio=0.5)
    config.target = common.pick(TARGETS, target)
    config.head = dict(name="maskfeat")
    config.optim = dict(name="adamw", lr=3e-3, lr_batch=128, warmup_epochs=0.3, clip_norm=1.0)
    config.run = dict(epochs=3.0, batch_size=128, keep_checkpoints=1)
    return config
