"""Kinetics-400 after the labels of Kinetics-600: a video MAE ViT (arXiv:2205.09113).

It starts from finetune_mae_vit_kinetics.py on Kinetics-600, which is called intermediate
fine-tuning. Learning rate, epochs and the drop path of H are those of the paper's appendix as
others quote it; the batch that the learning rate belongs to is not, here it is that of
finetune_mae_vit_kinetics.py, whose other numbers these are. The end of the schedule is ours. The
drop path of L may be another, and its epochs may be passes over the videos, which give two clips
each. Not run here.

    size  epochs  expect: top-1 with 7x3 clips  cost: GMAC per clip (training x3)
    l16   40      86.5 % (as others quote)      597
    h16   30      86.8 % (as others quote)      1192

Run: python main.py --config=configs/finetune_mae_vit_k600_to_k400.py:l16 --workdir=runs/l-k400 \
         --config.data.path=/data/k400 --config.model.init_from=runs/l-k600-ft
"""

from maskfeat_jax.configs import common, finetune_mae_vit_kinetics

SIZES = {  # learning rates for 256 clips, half the batch of L
    "l16": dict(optim=dict(lr=4e-4), run=dict(epochs=40.0)),
    "h16": dict(optim=dict(lr=8e-4), run=dict(epochs=30.0), model=dict(drop_path=0.3)),
}


def get_config(size="l16"):
    changes = common.pick(SIZES, size)
    config = finetune_mae_vit_kinetics.get_config(size)
    del config.optim.lr_batch
    config.update(changes)
    return config
