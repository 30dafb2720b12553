"""Fine-tuning of a video MAE ViT-H/16 on Something-Something v2, 40 epochs (arXiv:2205.09113).

As finetune_mae_vit_l16_ssv2.py, with the learning rate and layer decay that the paper's appendix
has for ViT-H, as remembered and not checked against it. Not run here.

Expect: unknown; no number that could be checked.
Cost: about 1192 GFLOP (multiply-adds) forward per clip, three times that with the backward pass.
Run: python main.py --config=configs/finetune_mae_vit_h16_ssv2.py --workdir=runs/mae-h-ssv2 \
         --config.data.path=/data/ssv2 \
         --config.model.init_from=runs/mae-h-k400
"""

from ml_collections import ConfigDict

from configs.finetune_mae_vit_l16_ssv2 import get_config as base


def get_config() -> ConfigDict:
    """The recipe."""
    config = base()
    config.model.encoder = "vit_h16"
    config.optim.update(lr=0.32, layer_decay=0.85)  # table, unverified
    return config
