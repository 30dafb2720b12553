"""Fine-tuning of a MaskFeat ViT-L/16 on ImageNet-1k, 50 epochs, as PySlowFast (arXiv:2112.09133).

Numbers of configs/masked_ssl/in1k_VIT_L_MaskFeat_FT.yaml; the learning rates are given for a
batch of 256 and grow with it. The colour jitter of that file has no effect beside RandAugment and
is left out. Not run here at this scale.

Expect: 85.7 % top-1 from maskfeat_vit_l16_in1k.py, 1600 epochs (published).
Cost: about 61.6 GFLOP (multiply-adds) forward per image, three times that with the backward pass.
Run: python main.py --config=configs/finetune_vit_l16_in1k.py --workdir=runs/l-ft \
         --config.data.path=/data/imagenet \
         --config.model.init_from=runs/l
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
        encoder="vit_l16",
        init_from="",  # work directory or checkpoint of the pre-training
        init_resize=False,  # True interpolates positions of another size
        drop_path=0.1,
        dtype="float32",
        scan=True,
        remat=False,
    )
    config.head = dict(name="classifier", num_classes=1000)
    config.optim = dict(
        name="adamw",
        lr=1e-3,
        lr_batch=256,
        warmup_lr=1e-8,
        end_lr=1e-6,
        warmup_epochs=5.0,
        weight_decay=0.05,
        layer_decay=0.75,
    )
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=50.0,
        batch_size=1024,
        accumulate=1,
        log_every_steps=50,
        checkpoint_every_epochs=1.0,
        evaluate_every_epochs=1.0,
        pictures_every_epochs=0.0,
    )
    return config
