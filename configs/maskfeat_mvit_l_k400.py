"""MaskFeat (HOG), MViTv2-L 16x4, Kinetics-400, 800 epochs, as PySlowFast (arXiv:2112.09133).

Numbers of configs/masked_ssl/k400_MVITv2_L_16x4_MaskFeat_PT.yaml. That file says 300 epochs; the
published weights are named after 800, so do the epochs here. Batch 512 as in the reproductions of
MViTv2-S; the learning rates are given for 32 and grow with it. Not run here at this scale.

Expect: 84.3 % top-1 after finetune_mvit_l_k400.py (published).
Cost: about 452 GFLOP (multiply-adds) forward per clip, three times that with the backward pass.
Run: python main.py --config=configs/maskfeat_mvit_l_k400.py --workdir=runs/l \
         --config.data.path=/data/k400
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "pretrain"
    # Lines "path label" or "path" of train.csv; video_folder and video_records take a path too.
    config.data = dict(name="video_list", path="", root=placeholder(str), split="train")
    config.eval_data = dict(name="")
    config.view = dict(
        size=224,
        frames=16,
        stride=4,
        short_side=256,
        crop_area=(0.5, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        interpolation="bilinear",
        antialias=False,
    )
    config.eval_view = dict(size=224, frames=16, stride=4, resize=256)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    config.augment = dict(flip=0.5)
    config.mask = dict(name="cube", ratio=0.4, window=(8, 7, 7))
    config.target = dict(name="hog", bins=9, cell=8)
    config.model = dict(
        encoder="mvit_v2_l",
        tubelet=(2, 16, 16),  # without the halving of the last stage, which fine-tuning has
        drop_path=0.0,
        dtype="float32",
        scan=True,
        remat=True,  # less memory for a third more computation; no effect on the result
    )
    config.head = dict(name="maskfeat")
    config.optim = dict(
        name="adamw",
        lr=1e-4,
        lr_batch=32,
        warmup_lr=1e-6,
        end_lr=1e-6,
        warmup_epochs=10.0,
        weight_decay=0.05,
        clip_norm=0.02,
    )
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=800.0,
        batch_size=512,
        accumulate=1,
        log_every_steps=50,
        checkpoint_every_epochs=5.0,
        evaluate_every_epochs=0.0,
        pictures_every_epochs=5.0,
    )
    return config
