"""Linear probe of an MAE ViT-B/16 on ImageNet-1k, 90 epochs, as facebookresearch/mae.

Numbers of its FINETUNE.md and main_linprobe.py. Different here: a crop that does not fit is drawn
again, up to ten times, there it is cut to the image at the first draw; batch norm takes the whole
batch, there the 512 images of a GPU; float32, there mixed precision. Not run here at this scale.

Expect: 67.8 % top-1 from mae_vit_b16_in1k.py (published).
Cost: about 17.6 GFLOP (multiply-adds) per image; the encoder has no backward pass. The batch is not
    cut into parts: with 32 devices 512 images are on each, with fewer lower run.batch_size (the
    learning rate follows).
Run: python main.py --config=configs/linear_mae_vit_b16_in1k.py --workdir=runs/mae-b-linear \
         --config.data.path=/data/imagenet \
         --config.model.init_from=runs/mae-b
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "probe"
    # Folders train/<class>/*.JPEG and val/<class>/*.JPEG.
    config.data = dict(name="image_folder", path="", split="train")
    path = config.data.get_oneway_ref("path")
    config.eval_data = dict(name="image_folder", path=path, split="val")
    config.view = dict(size=224, crop_area=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3))
    config.eval_view = dict(size=224, resize=256)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.augment = dict(flip=0.5)
    config.model = dict(
        encoder="vit_b16",
        positions="sincos",
        init_from="",  # work directory or checkpoint of the pre-training
        init_resize=False,  # True interpolates positions of another size
        dtype="float32",
        scan=False,
        remat=False,
    )
    config.head = dict(name="linear_probe", num_classes=1000, pool="class")
    config.optim = dict(
        name="lars",
        lr=0.1,
        lr_batch=256,
        warmup_lr=0.0,
        end_lr=0.0,
        warmup_epochs=10.0,
        momentum=0.9,
        weight_decay=0.0,
    )
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=90.0,
        batch_size=16384,
        log_every_steps=10,
        checkpoint_every_epochs=1.0,
        evaluate_every_epochs=5.0,
        pictures_every_epochs=0.0,
    )
    return config
