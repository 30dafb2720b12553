"""Fine-tuning of a MaskFeat MViTv2-L on Kinetics-600: finetune_mvit_l_k400.py with 600 classes.

PySlowFast has no file for Kinetics-600; every other number is that of Kinetics-400. Not run here.

Expect: unknown for 16 frames of 224x224 pixels; the published 88.3 % is of larger
clips.
Cost: about 378 GFLOP (multiply-adds) forward per clip, three times that with the backward pass.
Run: python main.py --config=configs/finetune_mvit_l_k600.py --workdir=runs/l600-ft \
         --config.data.path=/data/k600 \
         --config.model.init_from=runs/l600
"""

from ml_collections import ConfigDict

from configs.finetune_mvit_l_k400 import get_config as kinetics_400


def get_config() -> ConfigDict:
    """The recipe."""
    config = kinetics_400()
    config.head.num_classes = 600
    return config
