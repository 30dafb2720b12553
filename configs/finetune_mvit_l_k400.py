"""Fine-tuning of a MaskFeat MViTv2-L on Kinetics-400, 75 epochs, as PySlowFast (arXiv:2112.09133).

Numbers of configs/masked_ssl/k400_MVITv2_L_16x4_FT.yaml; the learning rates are given for a batch
of 16 and grow with it. Batch 128 as in a reproduction of MViTv2-S. The colour jitter of that file
has no effect and is left out. Not run here at this scale.

Expect: 84.3 % top-1, ten clips, from maskfeat_mvit_l_k400.py, 800 epochs (published).
Cost: about 378 GFLOP (multiply-adds) forward per clip, three times that with the backward pass.
Run: python main.py --config=configs/finetune_mvit_l_k400.py --workdir=runs/l-ft \
         --config.data.path=/data/k400 \
         --config.model.init_from=runs/l
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "finetune"
    # Lines "path label" of train.csv and val.csv; video_folder and video_records take a path too.
    config.data = dict(name="video_list", path="", root=placeholder(str), split="train")
    path = config.data.get_oneway_ref("path")
    root = config.data.get_oneway_ref("root")
    config.eval_data = dict(name="video_list", path=path, root=root, split="val")
    config.view = dict(
        size=224,
        frames=16,
        stride=4,
        short_side=256,
        crop_area=(0.08, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        interpolation="bilinear",
        antialias=False,
        rand_augment="rand-m7-mstd0.5-inc1",
        fill=(128, 128, 128),
        augment_first=True,
    )
    # Probabilities are averaged over ten clips of each video.
    config.eval_view = dict(size=224, frames=16, stride=4, resize=256, clips=10, crops=1)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    config.augment = dict(flip=0.5, erase=0.25)
    config.mix = dict(
        mixup=0.8,
        cutmix=1.0,
        probability=1.0,
        switch=0.5,
        group=2,  # clips per GPU of the original
        smoothing=0.1,
    )
    config.model = dict(
        encoder="mvit_v2_l",
        init_from="",  # work directory or checkpoint of the pre-training
        drop_path=0.2,
        dtype="float32",
        scan=True,
        remat=True,  # less memory for a third more computation; no effect on the result
    )
    config.head = dict(name="classifier", num_classes=400)
    config.optim = dict(
        name="adamw",
        lr=6e-4,
        lr_batch=16,
        warmup_lr=1e-8,
        end_lr=1e-5,
        warmup_epochs=5.0,
        weight_decay=0.05,
        layer_decay=0.875,
        clip_norm=5.0,
    )
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=75.0,
        batch_size=128,
        accumulate=1,
        log_every_steps=50,
        checkpoint_every_epochs=1.0,
        evaluate_every_epochs=10.0,
        pictures_every_epochs=0.0,
    )
    return config
