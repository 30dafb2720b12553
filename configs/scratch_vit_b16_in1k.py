"""Baseline, ViT-B/16 from scratch, ImageNet-1k, 300 epochs (MAE, arXiv:2111.06377).

Numbers of the appendix, "Training ViT from scratch"; no code of it was released to check them with.
The evaluated parameters are the moving average. Where the paper is silent (erasing, size of mixed
groups) as finetune_vit_b16_in1k.py. Not run here at this scale.

Expect: 82.3 % top-1 (published).
Cost: about 17.6 GFLOP (multiply-adds) forward per image, three times that with the backward pass.
Run: python main.py --config=configs/scratch_vit_b16_in1k.py --workdir=runs/b-scratch \
         --config.data.path=/data/imagenet
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "finetune"
    # Folders train/<class>/*.JPEG and val/<class>/*.JPEG.
    config.data = dict(name="image_folder", path="", split="train")
    path = config.data.get_oneway_ref("path")
    config.eval_data = dict(name="image_folder", path=path, split="val")
    config.view = dict(
        size=224,
        crop_area=(0.08, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        rand_augment="rand-m9-mstd0.5-inc1",
    )
    config.eval_view = dict(size=224, resize=256)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.augment = dict(flip=0.5, erase=0.25)
    config.mix = dict(
        mixup=0.8,
        cutmix=1.0,
        probability=1.0,
        switch=0.5,
        group=64,
        smoothing=0.1,
    )
    config.model = dict(
        encoder="vit_b16",
        init_from="",
        drop_path=0.1,
        dtype="float32",
        scan=False,
        remat=False,
    )
    config.head = dict(name="classifier", num_classes=1000)
    config.optim = dict(
        name="adamw",
        lr=1e-4,
        lr_batch=256,
        warmup_lr=0.0,
        end_lr=0.0,
        warmup_epochs=20.0,
        b2=0.95,
        weight_decay=0.3,
        ema_decay=0.9999,
    )
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=300.0,
        batch_size=4096,
        accumulate=1,
        log_every_steps=50,
        checkpoint_every_epochs=1.0,
        evaluate_every_epochs=1.0,
        pictures_every_epochs=0.0,
    )
    return config
