"""Fine-tuning of a MaskFeat MViTv2-L on Something-Something v2, 40 epochs.

No recipe of this is published. Data and augmentation are those of PySlowFast's
configs/SSv2/MVITv2_S_16x4.yaml, epochs and warm-up those of its MVITv2_L_40x3.yaml, supervised
models trained with SGD; the rest is that of finetune_mvit_l_k400.py. Not run here.

Expect: unknown; the published 75.0 % is of 40 frames of 312x312 pixels, after Kinetics-600.
Cost: about 378 GFLOP (multiply-adds) forward per clip, three times that with the backward pass.
Run: python main.py --config=configs/finetune_mvit_l_ssv2.py --workdir=runs/l-ssv2 \
         --config.data.path=/data/ssv2 \
         --config.model.init_from=runs/l
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "finetune"
    # The published JSON files and the videos.
    config.data = dict(name="ssv2", path="", split="train")
    path = config.data.get_oneway_ref("path")
    config.eval_data = dict(name="ssv2", path=path, split="validation")
    config.view = dict(
        size=224,
        frames=16,
        sampling="segment",
        scale_jitter=(256, 320),
        interpolation="bilinear",
        antialias=False,
        rand_augment="rand-m7-n4-mstd0.5-inc1",
        fill=(128, 128, 128),
        augment_first=True,
    )
    # Probabilities are averaged over three squares of each video.
    config.eval_view = dict(size=224, frames=16, sampling="segment", resize=224, clips=1, crops=3)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    config.augment = dict(flip=0.0, erase=0.25)  # left and right tell classes apart
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
    config.head = dict(name="classifier", num_classes=174)
    config.optim = dict(
        name="adamw",
        lr=6e-4,
        lr_batch=16,
        warmup_lr=1e-8,
        end_lr=1e-5,
        warmup_epochs=3.0,
        weight_decay=0.05,
        layer_decay=0.875,
        clip_norm=5.0,
    )
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=40.0,
        batch_size=128,
        accumulate=1,
        log_every_steps=50,
        checkpoint_every_epochs=1.0,
        evaluate_every_epochs=2.0,
        pictures_every_epochs=0.0,
    )
    return config
