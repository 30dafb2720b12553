"""Masked autoencoder, ViT-L/16 16x4, Kinetics-400, 1600 epochs, as PySlowFast (arXiv:2205.09113).

Numbers of configs/masked_ssl/k400_VIT_L_16x4_MAE_PT.yaml on 16 nodes: 512 videos, four clips of
each; what it shares with ViT-B is in mae_vit_b16_k400.py. Its 200 passes are 800 epochs, those of
the paper's ablations; the published weights are named after 400 passes, so do the epochs here.
The warm-up is that of the file, 30 passes. Not run here at this scale.

Expect: 84.8 % top-1 after finetune_mae_vit_l16_k400.py; 84.4 % with run.epochs=800.0 (published).
Cost: about 79.4 GFLOP (multiply-adds) forward per clip, three times that with the backward pass.
Run: python main.py --config=configs/mae_vit_l16_k400.py --workdir=runs/mae-l-k400 \
         --config.data.path=/data/k400
"""

from ml_collections import ConfigDict

from configs.mae_vit_b16_k400 import get_config as base


def get_config() -> ConfigDict:
    """The recipe."""
    config = base()
    config.model.update(encoder="vit_l16", scan=True)
    # 32 videos of a node, four clips of each; the file calls its rate one "for bs64" all the same.
    config.optim.lr_batch = 128
    config.optim.warmup_epochs = 120.0  # 30 passes
    config.run.batch_size = 2048
    return config
