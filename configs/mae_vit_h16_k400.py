"""Masked autoencoder, ViT-H/16 16x4, Kinetics-400, 1600 epochs, as PySlowFast (arXiv:2205.09113).

Numbers of configs/masked_ssl/k400_VIT_H_16x4_MAE_PT.yaml on 16 nodes: 512 videos, four clips of
each; what it shares with ViT-B is in mae_vit_b16_k400.py. 400 passes, as the published weights are
named; the warm-up is 60 passes. Not run here at this scale.

Expect: 85.1 % top-1 after finetune_mae_vit_h16_k400.py (published).
Cost: about 132 GFLOP (multiply-adds) forward per clip, three times that with the backward pass.
Run: python main.py --config=configs/mae_vit_h16_k400.py --workdir=runs/mae-h-k400 \
         --config.data.path=/data/k400
"""

from ml_collections import ConfigDict

from configs.mae_vit_b16_k400 import get_config as base


def get_config() -> ConfigDict:
    """The recipe."""
    config = base()
    config.model.update(encoder="vit_h16", scan=True)
    config.optim.lr_batch = 128  # 32 videos of a node, four clips of each
    config.run.batch_size = 2048
    return config
