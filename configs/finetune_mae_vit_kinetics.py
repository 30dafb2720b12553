"""Fine-tuning of a video MAE ViT on Kinetics, as in arXiv:2205.09113.

Numbers of PySlowFast's configs/masked_ssl/k400_VIT_{B,L,H}_16x4_FT.yaml on 16 nodes: two clips of
each video and 75 (B) or 50 passes (L), one clip and 75 passes (H). Batch, learning rates and epochs
count clips here. The learning rate of L, 4.8e-3 for 512 clips, is that of mae_st's FINETUNE.md too.
The file of B has a batch of one video for eight GPUs, which must be a placeholder. Ours is 32
videos a node, with which the learning rate of a clip is the same as of L. Kinetics-600 and -700
have no files: but for the number of classes every number is that of Kinetics-400. Not run here at
this scale.

    size      epochs  expect: top-1 with 7x3 clips (mae_vit_…)  cost: GMAC per clip (training x3)
    b16,k400  150     81.3 % (published)                        180
    l16,k400  100     84.8 % (published)                        597
    h16,k400  75      85.1 % (published)                        1192

What to expect of k600 and k700 is unknown: see finetune_mae_vit_k600_to_k400.py and
finetune_mae_vit_ssv2.py, which may start from them.

With model.init_resize=True it also starts from a model of images: l16 82.3 % from mae_vit_in1k.py
(published, table 3).

By `estimate`, l16 needs 9.9 of 59 GiB of an H100 with 32 clips.

Run: python main.py --config=configs/finetune_mae_vit_kinetics.py:b16 --workdir=runs/mae-b-k400-ft \
         --config.data.path=/data/k400 --config.model.init_from=runs/mae-b-k400
     python main.py --config=configs/finetune_mae_vit_kinetics.py:l16 --workdir=runs/in1k-k400 \
         --config.data.path=/data/k400 --config.model.init_from=runs/mae-l \
         --config.model.init_resize=True
"""

from maskfeat_jax.configs import common

# `group` is the clips per GPU, `lr_batch` those of a node; of B both are ours, see above.
# remat: less memory for a third more computation; no effect on the result.
SIZES = {
    "b16": dict(
        view=dict(repeats=2),
        mix=dict(group=8),
        model=dict(encoder="vit_b16", drop_path=0.1),
        head=dict(dropout=0.3),
        optim=dict(lr=6e-4, lr_batch=64, end_lr=1e-5, warmup_epochs=10.0, layer_decay=0.65),
        run=dict(epochs=150.0, batch_size=1024, evaluate_every_epochs=30.0),
    ),
    "l16": dict(
        view=dict(repeats=2),
        mix=dict(group=4),
        model=dict(encoder="vit_l16", drop_path=0.2, remat=True),
        head=dict(dropout=0.3),
        optim=dict(lr=3e-4, lr_batch=32, end_lr=1e-5, warmup_epochs=10.0, layer_decay=0.75),
        run=dict(epochs=100.0, batch_size=512, evaluate_every_epochs=20.0),
    ),
    "h16": dict(
        mix=dict(group=2),
        model=dict(encoder="vit_h16", drop_path=0.2, remat=True),
        head=dict(dropout=0.5),
        optim=dict(lr=3e-4, lr_batch=16, warmup_epochs=5.0, layer_decay=0.8),
        run=dict(epochs=75.0, batch_size=256, evaluate_every_epochs=15.0),
    ),
}
DATA = {"k400": 400, "k600": 600, "k700": 700}  # classes


def get_config(size_and_data="b16,k400"):
    size, _, data = size_and_data.partition(",")
    config = common.kinetics("finetune")
    config.eval_view = dict(resize=224, clips=7, crops=3)
    config.model = dict(tubelet=(2, 16, 16), positions="separate", init_parts=("encoder", "norm"))
    config.head = dict(name="classifier", num_classes=common.pick(DATA, data or "k400"))
    config.optim = dict(name="adamw", warmup_lr=1e-8, clip_norm=5.0)
    config.run = dict(checkpoint_every_epochs=2.0, pictures_every_epochs=0.0)
    config.update(common.pick(SIZES, size))
    config.model.dtype = "bfloat16"
    return config
