"""Features of CLIP as targets and their loss, against mmpretrain's EVA on the same weights."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from bench.originals import make_importable
from maskfeat_jax.augment import Normalise
from maskfeat_jax.convert import files
from maskfeat_jax.targets import Features, Inputs
from maskfeat_jax.training import encoder_files
from tests.original.checkpoints import randomise

WIDTH, HEADS, SIDE, OUTPUTS = 128, 2, 64, 24
NAMES = {  # of transformers, for those of mmpretrain
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1": "embeddings.patch_embedding",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "transformer.resblocks": "encoder.layers",
    "ln_": "layer_norm",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def saved(model, folder):
    """The weights of mmpretrain's network as transformers saves them."""
    state = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        for old, new in NAMES.items():
            name = name.replace(old, new)
        if "in_proj_" in name:
            for part, third in zip("qkv", np.split(array, 3), strict=True):
                new = name.replace("attn.in_proj_", f"self_attn.{part}_proj.")
                state[f"vision_model.{new}"] = third
        elif name == "proj":
            state["visual_projection.weight"] = np.ascontiguousarray(array.T)
        else:
            state[f"vision_model.{name}"] = array
    files.write(folder / "model.safetensors", state, None)
    config = {"model_type": "clip_vision_model", "num_attention_heads": HEADS, "image_size": SIDE}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.original("MMPRETRAIN_DIR", "mmengine", "mmcv")
def test_target_and_loss_of_eva(tmp_path):
    make_importable("MMPRETRAIN_DIR")
    import torch
    from mmpretrain.models.losses import CosineSimilarityLoss
    from mmpretrain.models.utils.clip_generator_helper import VisionTransformer

    theirs = VisionTransformer(SIDE, 16, WIDTH, 2, HEADS, OUTPUTS).eval()
    randomise(theirs)
    saved(theirs, tmp_path)
    rng = np.random.default_rng(0)
    clips = rng.standard_normal((2, 1, SIDE, SIDE, 3), np.float32)
    predicted = rng.standard_normal((2, 1, 4, 4, OUTPUTS), np.float32)
    mask = rng.random((2, 1, 4, 4)) < 0.75
    with torch.no_grad():
        tokens, _ = theirs(torch.from_numpy(clips[:, 0].transpose(0, 3, 1, 2).copy()))
        expected = tokens[:, 1:]
        loss = CosineSimilarityLoss(shift_factor=2.0, scale_factor=2.0)(
            torch.from_numpy(predicted.reshape(2, 16, -1)),
            expected,
            torch.from_numpy(mask.reshape(2, 16)),
        )

    section = {"file": str(tmp_path), "projection": OUTPUTS}
    network = Normalise()  # theirs takes the pixels of the student
    section |= {"mean": network.mean, "std": network.std, "normalise": "none", "dtype": "float32"}
    target = Features((1, 16, 16), **{**section, **encoder_files.describe(section)})
    inputs = Inputs(clips, network, encoder_files.load(target))
    found = np.asarray(jax.jit(target)(inputs)).reshape(2, 16, -1)
    largest = float(expected.abs().max())
    difference = float(np.abs(found - expected.numpy()).max())
    print(f"targets: largest difference {difference:.1e}, largest number {largest:.1e}")
    assert difference <= 1e-5 * largest
    by_token = target.loss(predicted, found.reshape(2, 1, 4, 4, -1))["loss"]
    print(f"loss {float(by_token[mask].mean()):.7f}, theirs {float(loss):.7f}")
    np.testing.assert_allclose(by_token[mask].mean(), float(loss), rtol=1e-5)
