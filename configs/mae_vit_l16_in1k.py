"""Masked autoencoder, ViT-L/16, ImageNet-1k, 1600 epochs, as in arXiv:2111.06377.

mae_vit_b16_in1k.py with another encoder. Not run here at this scale.

Expect: 85.9 % top-1 after finetune_mae_vit_l16_in1k.py, 76.0 % after linear_mae_vit_l16_in1k.py
(published); 85.5 % after the former with run.epochs=800.0 (published).
Cost: about 20.6 GFLOP (multiply-adds) forward per image, three times that with the backward pass.
Run: python main.py --config=configs/mae_vit_l16_in1k.py --workdir=runs/mae-l \
         --config.data.path=/data/imagenet
"""

from ml_collections import ConfigDict

from configs.mae_vit_b16_in1k import get_config as base


def get_config() -> ConfigDict:
    """The recipe."""
    config = base()
    config.model.update(encoder="vit_l16", scan=True)
    return config
