"""Ablations of MaskFeat on video: MViTv2-S, Kinetics-400, 300 epochs, then fine-tuning.

What follows the colon is the table, and after commas the rows if not all are wanted. Teachers are
looked for in the folder `teachers`. Top-1 of arXiv:2112.09133, as others cite it: HOG 82.2 %,
pixels 80.7, DINO 82.5. Not run here at this scale.

Run: python main.py sweep --config=configs/sweeps/maskfeat_mvit_kinetics.py:masks \
         --workdir=runs/k400-masks --config.common.data.path=/data/k400
"""

from maskfeat_jax.configs import common

CUBE = dict(name="cube", window=(8, 7, 7))
TABLES = dict(
    targets=dict(
        pixels=dict(target=common.PIXELS),
        dvae=dict(target=common.DVAE),
        dino=dict(target=common.DINO),
        pseudo_label=dict(target=common.LABELS),
        hog=dict(target=common.HOG),
        hog_pixels=dict(target=dict(name="sum", parts=dict(hog=common.HOG, pixels=common.PIXELS))),
    ),
    masks=dict(
        cube=dict(mask=CUBE),
        tube=dict(mask=dict(name="tube", window=(7, 7))),
        frame=dict(mask=dict(name="frame")),
        random=dict(mask=dict(name="random", ratio=0.4)),
        cube20=dict(mask=dict(**CUBE, ratio=0.2)),
        cube60=dict(mask=dict(**CUBE, ratio=0.6)),
        cube80=dict(mask=dict(**CUBE, ratio=0.8)),
    ),
    schedule={f"epochs{n}": dict(run=dict(epochs=float(n))) for n in (300, 800)},
)


def get_config(table="targets"):
    return common.ablation(
        TABLES,
        table,
        pretrain="configs/maskfeat_mvit_kinetics.py:s",
        finetune="configs/finetune_mvit_kinetics.py:s",
    )
