"""Ablations of MaskFeat on images: ViT-B, ImageNet-1k, 300 epochs, then fine-tuning.

What follows the colon is the table, and after commas the rows if not all are wanted. Teachers are
looked for in the folder `teachers`. Top-1 of arXiv:2112.09133, as others cite it: HOG 83.6 %,
pixels 82.5, dVAE 82.8, DINO 84.0, HOG and pixels 82.3, scratch 81.8; HOG 0.8 lower with L1 norms,
1.4 without. Not run here at this scale.

Run: python main.py sweep --config=configs/sweeps/maskfeat_vit_in1k.py:targets \
         --workdir=runs/in1k-targets --config.common.data.path=/data/imagenet
     python main.py sweep --config=configs/sweeps/maskfeat_vit_in1k.py:hog,l2,none --workdir=...
"""

from maskfeat_jax.configs import common

TABLES = dict(
    targets=dict(
        none=None,
        pixels=dict(target=common.PIXELS),
        pixels_normalised=dict(target=dict(name="pixels")),
        dvae=dict(target=common.DVAE),
        dino=dict(target=common.DINO),
        pseudo_label=dict(target=common.LABELS),
        hog=dict(target=common.HOG),
        hog_pixels=dict(target=dict(name="sum", parts=dict(hog=common.HOG, pixels=common.PIXELS))),
    ),
    hog=dict(
        l2=dict(target=common.HOG),
        l1=dict(target=dict(**common.HOG, normalise="l1")),
        none=dict(target=dict(**common.HOG, normalise="none")),
        bins6=dict(target=dict(**common.HOG, bins=6)),
        bins12=dict(target=dict(**common.HOG, bins=12)),
        cell4=dict(target=dict(**common.HOG, cell=4)),
        cell16=dict(target=dict(**common.HOG, cell=16)),
        grey=dict(target=dict(**common.HOG, colour="grey")),
        signed=dict(target=dict(**common.HOG, signed=True, bins=18)),
    ),
    masks=dict(
        block=dict(mask=dict(ratio=0.4)),
        block20=dict(mask=dict(ratio=0.2)),
        block60=dict(mask=dict(ratio=0.6)),
        block80=dict(mask=dict(ratio=0.8)),
        random=dict(mask=dict(name="random", ratio=0.4)),
    ),
    schedule={f"epochs{n}": dict(run=dict(epochs=float(n))) for n in (300, 800, 1600)},
)


def get_config(table="targets"):
    return common.ablation(
        TABLES,
        table,
        pretrain="configs/maskfeat_vit_in1k.py:b16",
        finetune="configs/finetune_vit_in1k.py:b16",
        scratch="configs/scratch_vit_in1k.py:b16",
        run=dict(epochs=300.0),
    )
