"""Video demo, for comparison: the network of `demo_video_finetune.py` from random parameters.

Source: none.
Expect: near chance, 12.5 % top-1.
Cost: about two minutes on two CPU cores.
Run: python main.py --config=configs/demo_video_scratch.py --workdir=runs/demo_video/scratch_0
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "finetune"
    # Another seed is other videos: none of those of pre-training.
    config.data = dict(
        name="moving_shapes",
        path="data/moving_shapes",
        split="train",
        num_examples=400,
        size=32,
        seed=1,
    )
    path = config.data.get_oneway_ref("path")
    config.eval_data = dict(
        name="moving_shapes", path=path, split="test", num_examples=400, size=32
    )
    config.view = dict(
        size=32,
        frames=8,
        stride=2,
        sampling="strided",
        crop_area=(0.6, 1.0),
        interpolation="bilinear",
        antialias=False,
    )
    # Probabilities are averaged over three clips of each video.
    config.eval_view = dict(size=32, resize=32, frames=8, stride=2, sampling="strided", clips=3)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    config.augment = dict(flip=0.5)
    config.mix = dict(probability=0.0, smoothing=0.1)
    config.model = dict(
        encoder="mvit_v2_s",
        width=48,
        depth=4,
        heads=1,
        stages=(1,),
        tubelet=(2, 8, 8),
        kv_stride=1,
        dtype="float32",
    )
    config.head = dict(name="classifier", num_classes=8)
    config.optim = dict(
        name="adamw",
        lr=3e-3,
        lr_batch=32,
        warmup_epochs=3.0,
        weight_decay=0.05,
        end_lr=1e-6,
    )
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=24.0,
        batch_size=32,
        log_every_steps=50,
        checkpoint_every_epochs=0.0,
        evaluate_every_epochs=0.0,
        pictures_every_epochs=0.0,
    )
    return config
