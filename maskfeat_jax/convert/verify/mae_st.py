"""facebookresearch/mae_st: needs the folder above its checkout on PYTHONPATH."""

from __future__ import annotations

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.files import require_torch
from maskfeat_jax.convert.verify import base
from maskfeat_jax.convert.verify.base import Case, Module, Original, Tensor
from maskfeat_jax.models import MAE, Features

HINT = (
    "put the folder above a checkout of github.com/facebookresearch/mae_st, which must be called "
    "mae_st, on PYTHONPATH, and pip install timm iopath simplejson"
)


def build(trained: Pretrained, names: frozenset[str]) -> Module:
    """From `models_mae` or `models_vit`."""
    model, encoder, frames = trained.model, trained.model.encoder, trained.clip[0]
    fields = {
        **base.sizes(trained),
        "num_frames": frames,
        "t_patch_size": encoder.tubelet[0],
        "sep_pos_embed": encoder.positions == "separate",
        "cls_embed": True,
    }
    if not isinstance(model, MAE):
        classes = getattr(model, "num_classes", 1)
        vit = base.imported("mae_st.models_vit", HINT).VisionTransformer(
            num_classes=classes, **fields
        )
        if isinstance(model, Features):
            vit.head = require_torch("to run an original").nn.Identity()
        return vit
    per_frame = 3 * encoder.tubelet[1] ** 2
    return base.imported("mae_st.models_mae", HINT).MaskedAutoencoderViT(
        # The number of frames for which a token predicts `dim` numbers.
        pred_t_dim=model.dim // per_frame * (frames // encoder.tubelet[0]),
        **base.sizes_of_decoder(trained),
        **fields,
    )


def run(model: Module, case: Case) -> Tensor:
    """Predictions, logits, or tokens after the norm."""
    clips = case.torch_clips()
    clips = clips if clips.ndim == 5 else clips[:, :, None]
    if isinstance(case.trained.model, MAE):
        case.draw_same_noise()
        _, predicted, _ = model(clips, base.mask_ratio(case.trained))
        return predicted[case.torch_mask()]
    tokens = base.outputs_of(model.blocks[-1])
    logits = model(clips)
    return model.norm(tokens[0]) if isinstance(case.trained.model, Features) else logits


MAE_ST = Original(
    "facebookresearch/mae_st", build, base.read_strictly(build, "model", "model_state"), run
)
