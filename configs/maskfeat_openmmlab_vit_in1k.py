"""MaskFeat (HOG), ViT-B/16, ImageNet-1k, 300 epochs, as OpenMMLab (mmselfsup 1.x, mmpretrain).

Numbers of configs/maskfeat/maskfeat_vit-base-p16_8xb256-amp-coslr-300e_in1k.py. Against PySlowFast
(maskfeat_vit_in1k.py): a Gaussian window of 16 in the HOG, masks of exactly 78 tokens, no weight
decay on the mask token. Different here: crops are resized with Pillow's antialiased bicubic filter
where OpenMMLab's OpenCV backend does not antialias; warm-up is linear from 1e-6 of the peak by
epoch, not by its last step; bfloat16 instead of float16 with loss scaling, HOG in float32. Not run
here at this scale.

Expect: 83.4 % top-1 (83.5 % in mmselfsup 0.x) after finetune_openmmlab_vit_in1k.py (published).
Cost: 17.6 GMAC per image (training x3).
Run: python main.py --config=configs/maskfeat_openmmlab_vit_in1k.py --workdir=runs/mm \
         --config.data.path=/data/imagenet
"""

from maskfeat_jax.configs import common


def get_config():
    config = common.imagenet("pretrain")
    config.view = dict(crop_area=(0.5, 1.0))
    config.mask = dict(name="block", exact=True)
    config.target = dict(name="hog", window=16)
    config.model = dict(encoder="vit_b16", dtype="bfloat16")
    config.head = dict(name="maskfeat")
    config.optim = dict(name="adamw", lr=1.6e-3, lr_batch=2048, clip_norm=0.02)
    config.optim.update(warmup_epochs=30.0, warmup_lr=1.6e-9, no_decay=("mask_token$",))
    config.run = dict(epochs=300.0, batch_size=2048)
    config.run.update(checkpoint_every_epochs=5.0, pictures_every_epochs=5.0)
    return config
