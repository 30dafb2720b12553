"""Video demo, first part: MaskFeat with HOG on unlabelled videos of moving shapes, MViTv2.

Source: none; found by trying, see `input_pipeline/datasets/moving_shapes.py` for the videos.
Expect: loss 0.032 on held-out videos, where the best constant gives 0.079.
Cost: about six minutes on two CPU cores that other programs used too.
Run: python main.py --config=configs/demo_video_pretrain.py --workdir=runs/demo_video/pretrain
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
    )
    config.eval_view = dict(size=32, resize=32, frames=8, stride=2, sampling="strided")
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    config.augment = dict(flip=0.5)
    config.mask = dict(name="random", ratio=0.5)
    config.target = dict(name="hog", bins=9, cell=4)
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
    config.head = dict(name="maskfeat")
    config.optim = dict(
        name="adamw",
        lr=1e-2,
        lr_batch=32,
        warmup_epochs=1.0,
        weight_decay=0.05,
        clip_norm=1.0,
        end_lr=1e-6,
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
