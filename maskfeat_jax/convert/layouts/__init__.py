"""The layouts of PyTorch checkpoints.

To add one, write a module like the others and add it to `LAYOUTS`.
"""

from __future__ import annotations

from maskfeat_jax.convert.layouts.base import Form, Layout
from maskfeat_jax.convert.layouts.clip import CLIP
from maskfeat_jax.convert.layouts.detectors import MMSEG, VITDET
from maskfeat_jax.convert.layouts.hf import HF
from maskfeat_jax.convert.layouts.mae import MAE
from maskfeat_jax.convert.layouts.mae_st import MAE_ST
from maskfeat_jax.convert.layouts.mmpretrain import MMPRETRAIN
from maskfeat_jax.convert.layouts.pyslowfast import PYSLOWFAST
from maskfeat_jax.convert.layouts.timm import TIMM
from maskfeat_jax.convert.layouts.torchvision import TORCHVISION
from maskfeat_jax.convert.layouts.videomae import VIDEOMAE

__all__ = ["LAYOUTS", "READ", "Form", "Layout"]

# If several fit a file, the first is used.
LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        *(TIMM, MAE, MAE_ST, VIDEOMAE, PYSLOWFAST, MMPRETRAIN, HF, CLIP, TORCHVISION),
        *(VITDET, MMSEG),
    )
}
# Those that are read: backbones lack the norm.
READ = {name: layout for name, layout in LAYOUTS.items() if not layout.backbone}
