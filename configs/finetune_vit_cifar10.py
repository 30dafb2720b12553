"""Fine-tuning of the small ViT of maskfeat_vit_cifar10.py on 2,000 labelled images of CIFAR-10.

With an empty `model.init_from` the same network from scratch, for the same budget. See
docs/experiments.md, which also says how the 2,000 images are chosen.

Expect: see docs/experiments.md.
Cost: about two minutes on two CPU cores.
Run: python main.py --config=configs/finetune_vit_cifar10.py --workdir=runs/cifar-hog-ft \
         --config.data.path=cifar10-2000 --config.eval_data.path=cifar10 \
         --config.model.init_from=runs/cifar-hog
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "finetune"
    config.data = dict(name="image_folder", path="", split="train")
    config.eval_data = dict(name="image_folder", path="", split="test")
    config.view = dict(size=32, crop_area=(0.3, 1.0))
    config.eval_view = dict(size=32, resize=32)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262))
    config.augment = dict(flip=0.5)
    config.mix = dict(probability=0.0, smoothing=0.1)
    config.model = dict(
        encoder="vit_ti16",
        tubelet=(1, 4, 4),
        width=128,
        depth=4,
        heads=4,
        dtype="float32",
        drop_path=0.1,
        init_from="",
        init_resize=False,  # True interpolates positions of another size
    )
    config.head = dict(name="classifier", num_classes=10)
    config.optim = dict(name="adamw", lr=1e-3, lr_batch=100, warmup_epochs=3.0, layer_decay=0.75)
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=25.0,
        batch_size=100,
        log_every_steps=100,
        checkpoint_every_epochs=0.0,
        evaluate_every_epochs=0.0,
        pictures_every_epochs=0.0,
    )
    return config
