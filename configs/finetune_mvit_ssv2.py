"""Fine-tuning of a MaskFeat MViTv2 on Something-Something v2.

No recipe of this is published. Data and augmentation are those of PySlowFast's
configs/SSv2/MVITv2_S_16x4.yaml, and so are the epochs of S; epochs and warm-up of L are those of
MVITv2_L_40x3.yaml. Both are of supervised models trained with SGD. The rest is that of
finetune_mvit_kinetics.py, with 3 epochs of warm-up. Not run here.

    size  epochs  expect: top-1 with three crops, from maskfeat_…  cost: GMAC per clip (training x3)
    s     100     unknown, none is published                       71
    l     40      unknown; published: 75.0 % with 40 frames of     378
                  312x312 pixels, after Kinetics-600

Run: python main.py --config=configs/finetune_mvit_ssv2.py:s --workdir=runs/s-ssv2 \
         --config.data.path=/data/ssv2 --config.model.init_from=runs/s
"""

from maskfeat_jax.configs import common

SIZES = {
    "s": dict(
        model=dict(encoder="mvit_v2_s", drop_path=0.1),
        optim=dict(layer_decay=0.75),
        run=dict(epochs=100.0),
    ),
    "l": dict(
        # remat: less memory for a third more computation; no effect on the result.
        model=dict(encoder="mvit_v2_l", drop_path=0.2, remat=True),
        optim=dict(warmup_lr=1e-8, end_lr=1e-5, layer_decay=0.875),
        run=dict(epochs=40.0),
    ),
}


def get_config(size="s"):
    config = common.ssv2()
    config.view.rand_augment = "rand-m7-n4-mstd0.5-inc1"
    config.optim = dict(name="adamw", lr=6e-4, lr_batch=16, warmup_epochs=3.0, clip_norm=5.0)
    config.run = dict(batch_size=128, evaluate_every_epochs=2.0, pictures_every_epochs=0.0)
    config.update(common.pick(SIZES, size))
    config.model.dtype = "bfloat16"
    return config
