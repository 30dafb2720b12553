"""Fine-tuning of an MAE ViT-B/16 on ImageNet-1k, 100 epochs, as facebookresearch/mae.

Numbers of its FINETUNE.md; the learning rates are given for a batch of 1024 and grow with it.
Positions start as the fixed ones of the pre-training and are learnt, the final norm starts anew.
The original computes in mixed precision, this in float32. Not run here at this scale.

Expect: 83.6 % top-1, mean of four seeds, from mae_vit_b16_in1k.py (published).
Cost: about 17.6 GFLOP (multiply-adds) forward per image, three times that with the backward pass.
Run: python main.py --config=configs/finetune_mae_vit_b16_in1k.py --workdir=runs/mae-b-ft \
         --config.data.path=/data/imagenet \
         --config.model.init_from=runs/mae-b
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
        group=32,  # clips per GPU of the original
        smoothing=0.1,
    )
    config.model = dict(
        encoder="vit_b16",
        positions="joint",
        init_from="",  # work directory or checkpoint of the pre-training
        init_resize=False,  # True interpolates positions of another size
        drop_path=0.1,
        dtype="float32",
        scan=False,
        remat=False,
    )
    config.head = dict(name="classifier", num_classes=1000)
    config.optim = dict(
        name="adamw",
        lr=2e-3,  # 5e-4 for 256
        lr_batch=1024,
        warmup_lr=0.0,
        end_lr=1e-6,
        warmup_epochs=5.0,
        weight_decay=0.05,
        layer_decay=0.65,
        no_decay=("cls_token$", "pos_embed$"),
    )
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=100.0,
        batch_size=1024,
        accumulate=1,
        log_every_steps=50,
        checkpoint_every_epochs=1.0,
        evaluate_every_epochs=1.0,
        pictures_every_epochs=0.0,
    )
    return config
