"""Demo, first part: MaskFeat with HOG on unlabelled pictures of shapes.

Source: none; found by trying, see `input_pipeline/datasets/shapes.py` for the pictures.
Expect: loss 0.031 on held-out pictures, where the best constant gives 0.085.
Cost: about five minutes on two CPU cores that other programs used too.
Run: python main.py --config=configs/demo_pretrain.py --workdir=runs/demo/pretrain
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "pretrain"
    config.data = dict(name="shapes", split="train", num_examples=8192, size=32)
    config.eval_data = dict(name="shapes", split="test", num_examples=1000, size=32)
    config.view = dict(size=32, crop_area=(0.6, 1.0))
    config.eval_view = dict(size=32, resize=32)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    config.augment = dict(flip=0.5)
    config.mask = dict(name="random", ratio=0.5)
    config.target = dict(name="hog", bins=9, cell=4)
    config.model = dict(
        encoder="vit_ti16", tubelet=(1, 4, 4), width=96, depth=4, heads=4, dtype="float32"
    )
    config.head = dict(name="maskfeat")
    config.optim = dict(
        name="adamw",
        lr=3e-3,
        lr_batch=64,
        warmup_epochs=0.8,
        weight_decay=0.05,
        clip_norm=1.0,
        end_lr=1e-6,
    )
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=11.0,
        batch_size=64,
        log_every_steps=50,
        checkpoint_every_epochs=2.0,
        evaluate_every_epochs=4.0,
        pictures_every_epochs=4.0,
    )
    return config
