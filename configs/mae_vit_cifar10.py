"""MAE (normalised pixels), a small ViT, CIFAR-10 as a folder of images, three epochs.

The experiment of docs/experiments.md, beside maskfeat_vit_cifar10.py; 75 % of the tokens are
dropped. For HOG instead of pixels: --config.target="{'name': 'hog', 'cell': 4}".

Expect: see docs/experiments.md.
Cost: about three minutes on two CPU cores.
Run: python main.py --config=configs/mae_vit_cifar10.py --workdir=runs/cifar-mae \
         --config.data.path=cifar10
"""

from maskfeat_jax.configs import common


def get_config():
    config = common.cifar10("pretrain")
    config.view = dict(size=32, crop_area=(0.5, 1.0))
    config.mask = dict(name="random")
    config.target = dict(name="pixels", channels="last")
    config.head = dict(name="mae", width=64, depth=2, heads=2)
    config.optim = dict(name="adamw", lr=3e-3, lr_batch=128, warmup_epochs=0.3, clip_norm=1.0)
    config.run = dict(epochs=3.0, batch_size=128, keep_checkpoints=1)
    return config
