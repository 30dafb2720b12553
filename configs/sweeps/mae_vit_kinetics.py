"""Ablations of MAE on video: ViT-L, Kinetics-400, 800 epochs, then fine-tuning.

What follows the colon is the table, and after commas the rows if not all are wanted. Teachers are
looked for in the folder `teachers`. Published top-1 (arXiv:2205.09113): normalised pixels 84.4 %,
raw pixels 83.8, HOG 84.0, dVAE 83.8. Not run here at this scale.

Run: python main.py sweep --config=configs/sweeps/mae_vit_kinetics.py:masks \
         --workdir=runs/mae-masks --config.common.data.path=/data/k400
"""

from maskfeat_jax.configs import common

TABLES = dict(
    targets=dict(
        pixels_normalised=dict(target=dict(name="pixels", channels="last")),
        pixels=dict(target=dict(name="pixels", channels="last", normalise=False)),
        dvae=dict(target=common.DVAE),
        hog=dict(target=common.HOG),
    ),
    masks=dict(
        random90=dict(mask=dict(ratio=0.9)),
        random95=dict(mask=dict(ratio=0.95)),
        random75=dict(mask=dict(ratio=0.75)),
        random50=dict(mask=dict(ratio=0.5)),
        space90=dict(mask=dict(name="random_tube")),
        time75=dict(mask=dict(name="frame", ratio=0.75)),
        cube75=dict(mask=dict(name="cube", ratio=0.75, exact=True)),
    ),
    schedule={f"epochs{n}": dict(run=dict(epochs=float(n))) for n in (200, 400, 800, 1600)},
)


def get_config(table="targets"):
    return common.ablation(
        TABLES,
        table,
        pretrain="configs/mae_vit_kinetics.py:l16",
        finetune="configs/finetune_mae_vit_kinetics.py:l16",
        run=dict(epochs=800.0),
    )
