"""MAE (normalised pixels), a small ViT, CIFAR-10 as a folder of images, three epochs.

The experiment of docs/experiments.md, beside maskfeat_vit_cifar10.py. For HOG instead of pixels:
--config.target="{'name': 'hog', 'cell': 4}".

Expect: see docs/experiments.md.
Cost: about three minutes on two CPU cores.
Run: python main.py --config=configs/mae_vit_cifar10.py --workdir=runs/cifar-mae \
         --config.data.path=cifar10
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "pretrain"
    config.data = dict(name="image_folder", path="", split="train")
    path = config.data.get_oneway_ref("path")
    config.eval_data = dict(name="image_folder", path=path, split="test")
    config.view = dict(size=32, crop_area=(0.5, 1.0))
    config.eval_view = dict(size=32, resize=32)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262))
    config.augment = dict(flip=0.5)
    config.mask = dict(name="random", ratio=0.75)
    config.target = dict(name="pixels", normalise=True, channels="last")
    config.model = dict(
        encoder="vit_ti16", tubelet=(1, 4, 4), width=128, depth=4, heads=4, dtype="float32"
    )
    config.head = dict(name="mae", width=64, depth=2, heads=2)
    config.optim = dict(name="adamw", lr=3e-3, lr_batch=128, warmup_epochs=0.3, clip_norm=1.0)
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=3.0,
        batch_size=128,
        log_every_steps=50,
        checkpoint_every_epochs=1.0,
        evaluate_every_epochs=1.0,
        pictures_every_epochs=1.0,
        keep_checkpoints=1,
    )
    return config
