"""MaskFeat, a small ViT, CIFAR-10 as a folder of images, 20 epochs.

The experiment of docs/experiments.md: which target helps most when labels are few? Made for two CPU
cores, not for a record. Each image that is read gives four clips.

    target  expect: loss on test images, of the best constant  cost: on two CPU cores
    hog     0.056, 0.061                                       13 minutes of processor time
    pixels  0.52, 0.99                                         13 minutes of processor time

Run: python main.py --config=configs/maskfeat_vit_cifar10.py:hog --workdir=runs/cifar-hog \
         --config.data.path=cifar10
"""

from maskfeat_jax.configs import common

TARGETS = {"hog": dict(name="hog", cell=4), "pixels": dict(name="pixels")}


def get_config(target="hog"):
    config = common.cifar10("pretrain")
    config.view = dict(size=32, crop_area=(0.5, 1.0), repeats=4)
    config.mask = dict(name="random", ratio=0.4)
    config.target = common.pick(TARGETS, target)
    config.head = dict(name="maskfeat")
    config.optim = dict(name="adamw", lr=3e-3, lr_batch=128, warmup_epochs=1.0, clip_norm=1.0)
    config.run = dict(epochs=20.0, batch_size=128, keep_checkpoints=1)
    config.run.update(evaluate_every_epochs=5.0, pictures_every_epochs=0.0)
    return config
