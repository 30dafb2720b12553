"""Linear probe of an MAE ViT-H/14 on ImageNet-1k, 50 epochs, as facebookresearch/mae.

linear_mae_vit_b16_in1k.py with another encoder and fewer epochs. Not run here at this scale.

Expect: 77.2 % top-1 from mae_vit_h14_in1k.py (published).
Cost: about 167 GFLOP (multiply-adds) per image; the encoder has no backward pass.
Run: python main.py --config=configs/linear_mae_vit_h14_in1k.py --workdir=runs/mae-h-linear \
         --config.data.path=/data/imagenet \
         --config.model.init_from=runs/mae-h
"""

from ml_collections import ConfigDict

from configs.linear_mae_vit_b16_in1k import get_config as base


def get_config() -> ConfigDict:
    """The recipe."""
    config = base()
    config.model.update(encoder="vit_h14", scan=True)
    config.run.epochs = 50.0
    return config
