"""Fine-tuning of a video MAE ViT-L/16 on Kinetics-400, 100 epochs, as in arXiv:2205.09113.

Numbers of PySlowFast's configs/masked_ssl/k400_VIT_L_16x4_FT.yaml on 16 nodes: 256 videos, two
clips of each, 50 passes; what it shares with ViT-B is in finetune_mae_vit_b16_k400.py. The learning
rate, 4.8e-3 for 512 clips, is that of mae_st's FINETUNE.md too. Not run here at this scale.

Expect: 84.8 % top-1, seven clips with three crops each, from mae_vit_l16_k400.py (published).
Cost: about 597 GFLOP (multiply-adds) forward per clip, three times that with the backward pass.
Run: python main.py --config=configs/finetune_mae_vit_l16_k400.py --workdir=runs/mae-l-k400-ft \
         --config.data.path=/data/k400 \
         --config.model.init_from=runs/mae-l-k400
"""

from ml_collections import ConfigDict

from configs.finetune_mae_vit_b16_k400 import get_config as base


def get_config() -> ConfigDict:
    """The recipe."""
    config = base()
    config.mix.group = 4  # clips per GPU of the original
    config.model.update(encoder="vit_l16", drop_path=0.2, scan=True)
    config.model.remat = True  # less memory for a third more computation; no effect on the result
    config.optim.lr = 3e-4
    config.optim.lr_batch = 32  # 16 videos of a node, two clips of each
    config.optim.layer_decay = 0.75
    config.run.update(epochs=100.0, batch_size=512, evaluate_every_epochs=20.0)  # 50 passes
    return config
