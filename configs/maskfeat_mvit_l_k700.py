"""MaskFeat (HOG), MViTv2-L 16x4, Kinetics-700: maskfeat_mvit_l_k400.py on other videos.

PySlowFast has no file for Kinetics-700; every number, the 800 epochs among them, is that of
Kinetics-400. Not run here.

Expect: unknown for 16 frames of 224x224 pixels; see finetune_mvit_l_k700.py.
Cost: about 452 GFLOP (multiply-adds) forward per clip, three times that with the backward pass.
Run: python main.py --config=configs/maskfeat_mvit_l_k700.py --workdir=runs/l700 \
         --config.data.path=/data/k700
"""

from ml_collections import ConfigDict

from configs.maskfeat_mvit_l_k400 import get_config as kinetics_400


def get_config() -> ConfigDict:
    """The recipe."""
    return kinetics_400()
