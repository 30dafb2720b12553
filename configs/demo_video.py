"""Demo: MaskFeat, MViTv2, on MP4 files of moving shapes, then a classifier of eight motions.

    stage     expect: on test videos                   cost: two CPU cores shared with others
    pretrain  HOG loss 0.032, of the best constant 0.079   six minutes
    finetune  near chance, 12.5 % top-1                    two minutes
    scratch   near chance, 12.5 % top-1                    two minutes

300 updates on 400 videos are too few to classify motion, see docs/experiments.md.

Run: python main.py --config=configs/demo_video.py:pretrain --workdir=runs/demo_video/pretrain
     python main.py --config=configs/demo_video.py:finetune --workdir=runs/demo_video/finetune_0 \
         --config.model.init_from=runs/demo_video/pretrain
     python main.py --config=configs/demo_video.py:scratch --workdir=runs/demo_video/scratch_0
"""

from maskfeat_jax.configs import common

# The optimiser of each stage.
STAGES = {
    "pretrain": dict(lr=1e-2, lr_batch=32, warmup_epochs=1.0, clip_norm=1.0),
    "finetune": dict(lr=1e-3, lr_batch=32, warmup_epochs=3.0, layer_decay=0.75),
    "scratch": dict(lr=3e-3, lr_batch=32, warmup_epochs=3.0),
}


def get_config(stage="pretrain"):
    config = common.moving_shapes()
    config.optim = dict(name="adamw", **common.pick(STAGES, stage))
    config.model = dict(encoder="mvit_v2_s", width=48, depth=4, stages=(1,))
    config.model.update(tubelet=(2, 8, 8), kv_stride=1)
    if stage == "pretrain":
        config.task = "pretrain"
        config.mask = dict(name="random", ratio=0.5)
        config.target = dict(name="hog", cell=4)
        config.head = dict(name="maskfeat")
        config.run = dict(epochs=16.0, batch_size=32, evaluate_every_epochs=4.0)
        config.run.update(checkpoint_every_epochs=4.0, pictures_every_epochs=8.0)
    else:
        config.task = "finetune"
        # With another seed all videos differ; those for testing are always the same 400.
        config.data.update(num_examples=400, seed=1)
        config.eval_data = dict(split="test", seed=0)
        config.eval_view.clips = 3
        config.mix = dict(probability=0.0)
        config.head = dict(name="classifier", num_classes=8)
        config.run = dict(epochs=24.0, batch_size=32, **common.AT_THE_END)
    return config
