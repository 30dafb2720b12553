"""Baseline, ViT from scratch, ImageNet-1k (MAE, arXiv:2111.06377).

Numbers of the appendix, "Training ViT from scratch"; no code of it was released to check them with.
The evaluated parameters are the moving average. Where the paper is silent (erasing, mixed groups of
64 clips) as finetune_vit_in1k.py:b16. Not run here at this scale.

    size  epochs  expect: top-1       cost: GMAC per image (training x3)
    b16   300     82.3 % (published)  17.6
    l16   200     82.6 % (published)  61.6

Run: python main.py --config=configs/scratch_vit_in1k.py:b16 --workdir=runs/b-scratch \
         --config.data.path=/data/imagenet
"""

from maskfeat_jax.configs import common

SIZES = {
    "b16": dict(model=dict(encoder="vit_b16", drop_path=0.1), run=dict(epochs=300.0)),
    "l16": dict(model=dict(encoder="vit_l16", drop_path=0.2), run=dict(epochs=200.0)),
}


def get_config(size="b16"):
    config = common.imagenet("finetune")
    config.optim = dict(name="adamw", lr=1e-4, b2=0.95, weight_decay=0.3, ema_decay=0.9999)
    config.optim.update(warmup_epochs=20.0, warmup_lr=0.0, end_lr=0.0)
    config.run = dict(batch_size=4096, pictures_every_epochs=0.0)
    config.update(common.pick(SIZES, size))
    config.model.dtype = "bfloat16"
    return config
