"""MAE, a small ViT, CIFAR-10 as a folder of images, 20 epochs.

The experiment of docs/experiments.md, beside maskfeat_vit_cifar10.py; 12 of the 16 tokens are
dropped. Each image that is read gives four clips.

Expect: a loss of 0.67 on test images; the best constant has 0.99.
Cost: ten minutes of processor time.
Run: python main.py --config=configs/mae_vit_cifar10.py --workdir=runs/cifar-mae \
         --config.data.path=cifar10
"""

from maskfeat_jax.configs import common


def get_config():
    config = common.cifar10("pretrain")
    config.view = dict(size=32, crop_area=(0.5, 1.0), repeats=4)
    config.mask = dict(name="random")
    config.target = dict(name="pixels", channels="last")
    config.head = dict(name="mae", width=64, depth=2, heads=2)
    config.optim = dict(name="adamw", lr=3e-3, lr_batch=128, warmup_epochs=1.0, clip_norm=1.0)
    config.run = dict(epochs=20.0, batch_size=128, keep_checkpoints=1)
    config.run.update(evaluate_every_epochs=5.0, pictures_every_epochs=0.0)
    return config
