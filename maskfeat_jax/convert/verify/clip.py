"""transformers: the image encoder of CLIP, `from_pretrained` of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.verify.base import Case, Module, Original, Tensor, imported
from maskfeat_jax.convert.verify.hf import HINT
from maskfeat_jax.models import Features


def build(trained: Pretrained, names: frozenset[str]) -> Module:
    """The model with these sizes."""
    encoder = trained.model.encoder
    return _class(trained)(
        imported("transformers", HINT).CLIPVisionConfig(
            hidden_size=encoder.width,
            intermediate_size=int(encoder.width * encoder.mlp_ratio),
            num_hidden_layers=encoder.depth,
            num_attention_heads=encoder.heads,
            image_size=trained.clip[1],
            patch_size=encoder.tubelet[1],
            layer_norm_eps=encoder.epsilon,
            hidden_act=encoder.activation,
            projection_dim=getattr(trained.model, "num_classes", 512),
        )
    )


def read(trained: Pretrained, path: Path, names: frozenset[str]) -> Module:
    """The model in the folder of the file, which must have a config.json; without that of texts."""
    arguments = {"output_loading_info": True, "local_files_only": True}
    try:
        model, info = _class(trained).from_pretrained(path.parent, **arguments)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConvertError(f"{path.parent} does not load in transformers: {error}") from error
    if missing := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise ConvertError(f"{path.parent} does not load in transformers: {missing}")
    return model


def run(model: Module, case: Case) -> Tensor:
    """Projected class tokens, or tokens after the norm."""
    output = model(case.torch_clips())
    if not isinstance(case.trained.model, Features):
        return output.image_embeds
    # transformers applies this norm to the class token only.
    network: Module = getattr(model, "vision_model", model)
    return network.post_layernorm(output.last_hidden_state)


def _class(trained: Pretrained) -> Any:
    transformers = imported("transformers", HINT)
    if isinstance(trained.model, Features):
        return transformers.CLIPVisionModel
    return transformers.CLIPVisionModelWithProjection


CLIP = Original("transformers", build, read, run)
