"""MaskFeat (HOG), ViT-B/16, ImageNet-1k, 300 epochs, as OpenMMLab (mmselfsup 1.x, mmpretrain).

Numbers of configs/maskfeat/maskfeat_vit-base-p16_8xb256-amp-coslr-300e_in1k.py. Against PySlowFast:
a Gaussian window of 16 in the HOG, masks of exactly 78 tokens, no weight decay on the mask token.
Different here: crops are resized with Pillow's antialiased bicubic filter where OpenMMLab's OpenCV
backend does not antialias; warm-up is linear from 1e-6 of the peak by epoch, not by its last step;
bfloat16 instead of float16 with loss scaling, HOG in float32. Not run here at this scale.

Expect: 83.4 % top-1 (83.5 % in mmselfsup 0.x) after finetune_openmmlab_vit_b16_in1k.py (published).
Cost: about 17.6 GFLOP (multiply-adds) forward per image, three times that with the backward pass.
Run: python main.py --config=configs/maskfeat_openmmlab_vit_b16_in1k.py --workdir=runs/mm \
         --config.data.path=/data/imagenet
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "pretrain"
    # Folders train/<class>/*.JPEG; a bare tree of images without labels does as well.
    config.data = dict(name="image_folder", path="", split="train", labels="auto")
    config.eval_data = dict(name="")
    config.view = dict(size=224, crop_area=(0.5, 1.0), crop_ratio=(3 / 4, 4 / 3))
    config.eval_view = dict(size=224, resize=256)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.augment = dict(flip=0.5)
    config.mask = dict(name="block", ratio=0.4, exact=True)
    config.target = dict(name="hog", bins=9, cell=8, window=16)
    config.model = dict(encoder="vit_b16", drop_path=0.0, dtype="bfloat16", scan=False, remat=False)
    config.head = dict(name="maskfeat")
    config.optim = dict(
        name="adamw",
        lr=1.6e-3,
        lr_batch=2048,
        warmup_lr=1.6e-9,
        end_lr=1e-6,
        warmup_epochs=30.0,
        weight_decay=0.05,
        no_decay=("mask_token$",),
        clip_norm=0.02,
    )
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=300.0,
        batch_size=2048,
        accumulate=1,
        log_every_steps=50,
        checkpoint_every_epochs=5.0,
        evaluate_every_epochs=0.0,
        pictures_every_epochs=5.0,
    )
    return config
