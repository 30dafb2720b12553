"""Demo, first part: MaskFeat with HOG on unlabelled pictures of shapes.

Expect: see `make demo`, which runs this, `demo_finetune.py` and `demo_scratch.py`.
Cost: minutes on two CPU cores.
Run: python main.py --config=configs/demo_pretrain.py --workdir=runs/demo/pretrain
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "pretrain"
    config.data = dict(name="shapes", split="train", num_examples=8192, size=48)
    config.eval_data = dict(name="shapes", split="validation", num_examples=512, size=48)
    config.view = dict(size=48, crop_area=(0.5, 1.0))
    config.eval_view = dict(size=48, resize=48)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    config.augment = dict(flip=0.5)
    config.mask = dict(name="block", ratio=0.4)
    config.target = dict(name="hog", bins=9, cell=4)
    config.model = dict(
        encoder="vit_ti16", tubelet=(1, 8, 8), width=128, depth=4, heads=4, dtype="float32"
    )
    config.optim = dict(
        name="adamw", lr=1e-3, warmup_epochs=2, weight_decay=0.05, clip_norm=1.0, end_lr=1e-6
    )
    config.mesh = dict(parameters=1)
    config.run = dict(epochs=20, batch_size=128, log_every_steps=20)
    return config
