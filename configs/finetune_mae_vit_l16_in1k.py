"""Fine-tuning of an MAE ViT-L/16 on ImageNet-1k, 50 epochs, as facebookresearch/mae.

Numbers of its FINETUNE.md; what it shares with ViT-B is in finetune_mae_vit_b16_in1k.py.
Not run here at this scale.

Expect: 85.9 % top-1, mean of four seeds, from mae_vit_l16_in1k.py (published).
Cost: about 61.6 GFLOP (multiply-adds) forward per image, three times that with the backward pass.
Run: python main.py --config=configs/finetune_mae_vit_l16_in1k.py --workdir=runs/mae-l-ft \
         --config.data.path=/data/imagenet \
         --config.model.init_from=runs/mae-l
"""

from ml_collections import ConfigDict

from configs.finetune_mae_vit_b16_in1k import get_config as base


def get_config() -> ConfigDict:
    """The recipe."""
    config = base()
    config.model.update(encoder="vit_l16", drop_path=0.2, scan=True)
    config.optim.lr = 4e-3  # 1e-3 for 256
    config.optim.layer_decay = 0.75
    config.run.epochs = 50.0
    return config
