"""Fine-tuning of a MaskFeat ViT on ImageNet-1k, as PySlowFast (arXiv:2112.09133).

Numbers of configs/masked_ssl/in1k_VIT_{B,L}_MaskFeat_FT.yaml; the learning rates are given for
batches of 512 and 256 and grow with the batch. The colour jitter of those files has no effect
beside RandAugment and is left out. Not run here at this scale.

    size  epochs  expect: top-1 from maskfeat_vit_in1k.py  cost: GMAC per image (training x3)
    b16   100     84.0 % (published, 1600 epochs)          17.6
    l16   50      85.7 % (published, 1600 epochs)          61.6

By `estimate`, b16 needs 4.3 of 16 GiB of a v5e with 64 images, 11.8 of 59 GiB of an H100 with 256
images.

Run: python main.py --config=configs/finetune_vit_in1k.py:b16 --workdir=runs/b-ft \
         --config.data.path=/data/imagenet --config.model.init_from=runs/b
"""

from maskfeat_jax.configs import common

SIZES = {
    "b16": dict(
        model=dict(encoder="vit_b16"),
        optim=dict(lr=2e-3, lr_batch=512, warmup_epochs=20.0, layer_decay=0.65),
        run=dict(epochs=100.0, batch_size=2048),
    ),
    "l16": dict(
        mix=dict(group=32),  # clips per GPU of the original; 64 of B
        model=dict(encoder="vit_l16"),
        optim=dict(lr=1e-3, warmup_epochs=5.0, layer_decay=0.75),
        run=dict(epochs=50.0, batch_size=1024),
    ),
}


def get_config(size="b16"):
    config = common.imagenet("finetune")
    config.model = dict(drop_path=0.1)
    config.optim = dict(name="adamw", warmup_lr=1e-8)
    config.run = dict(pictures_every_epochs=0.0)
    config.update(common.pick(SIZES, size))
    config.model.dtype = "bfloat16"
    return config
