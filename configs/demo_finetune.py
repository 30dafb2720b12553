"""Demo, second part: a classifier from what `demo_pretrain.py` learnt, with few labels.

Source: none; found by trying.
Expect: about 28 % top-1 (chance 10 %).
Cost: less than a minute on two CPU cores.
Run: python main.py --config=configs/demo_finetune.py --workdir=runs/demo/finetune_0 \
        --config.model.init_from=runs/demo/pretrain
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "finetune"
    # Another seed is other pictures: none of those of pre-training.
    config.data = dict(name="shapes", split="train", num_examples=1000, size=32, seed=1)
    config.eval_data = dict(name="shapes", split="test", num_examples=2000, size=32)
    config.view = dict(size=32, crop_area=(0.6, 1.0))
    config.eval_view = dict(size=32, resize=32)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    config.augment = dict(flip=0.5)
    config.mix = dict(probability=0.0, smoothing=0.1)
    config.model = dict(
        encoder="vit_ti16",
        tubelet=(1, 4, 4),
        width=96,
        depth=4,
        heads=4,
        dtype="float32",
        init_from="runs/demo/pretrain",
    )
    config.head = dict(name="classifier", num_classes=10)
    config.optim = dict(
        name="adamw",
        lr=1e-3,
        lr_batch=64,
        warmup_epochs=4.0,
        weight_decay=0.05,
        layer_decay=0.75,
        end_lr=1e-6,
    )
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=24.0,
        batch_size=50,
        log_every_steps=100,
        checkpoint_every_epochs=0.0,
        evaluate_every_epochs=0.0,
        pictures_every_epochs=0.0,
    )
    return config
