"""MAE demo: normalised pixels of unlabelled videos of moving shapes, 90 % of the tokens dropped.

Two clips are taken of each decoded video, so that 16 epochs read every video 8 times.

Source: none; found by trying, see `input_pipeline/datasets/moving_shapes.py` for the videos.
Expect: loss 0.51 on held-out videos, where the best constant gives 0.98; pictures in the work
    directory.
Cost: about four minutes on two CPU cores.
Run: python main.py --config=configs/demo_mae.py --workdir=runs/demo_mae
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "pretrain"
    config.data = dict(
        name="moving_shapes", path="data/moving_shapes", split="train", num_examples=2000, size=32
    )
    path = config.data.get_oneway_ref("path")
    config.eval_data = dict(
        name="moving_shapes", path=path, split="test", num_examples=200, size=32
    )
    config.view = dict(
        size=32,
        frames=8,
        stride=2,
        sampling="strided",
        crop_area=(0.6, 1.0),
        interpolation="bilinear",
        antialias=False,
        repeats=2,
        new_frames=True,
    )
    config.eval_view = dict(size=32, resize=32, frames=8, stride=2, sampling="strided")
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    config.augment = dict(flip=0.5)
    config.mask = dict(name="random", ratio=0.9)
    config.target = dict(name="pixels", normalise=True, channels="last")
    config.model = dict(
        encoder="vit_ti16",
        tubelet=(2, 4, 4),
        positions="separate",
        width=128,
        depth=4,
        heads=4,
        dtype="float32",
    )
    config.head = dict(name="mae", width=96, depth=2, heads=3)
    config.optim = dict(
        name="adamw", lr=3e-3, lr_batch=32, warmup_epochs=1.0, b2=0.95, clip_norm=1.0
    )
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=16.0,
        batch_size=32,
        log_every_steps=50,
        checkpoint_every_epochs=4.0,
        evaluate_every_epochs=4.0,
        pictures_every_epochs=8.0,
    )
    return config
