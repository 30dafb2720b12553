"""CLIP's image encoder, as transformers and timm save it, against numbers of transformers."""

from __future__ import annotations

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax import convert
from maskfeat_jax.convert import ConvertError, files
from maskfeat_jax.models.layers import LayerNorm

CONFIG = {"model_type": "clip_vision_model", "num_attention_heads": 2, "image_size": 32}
PIXELS = np.sin(0.1 * np.arange(2 * 3 * 32 * 32, dtype=np.float32)).reshape(2, 3, 32, 32)


def state_of_clip():
    """Tensors of a CLIPVisionModelWithProjection with two blocks, each filled from its name."""
    d = 32
    shapes = {
        "embeddings.class_embedding": (d,),
        "embeddings.patch_embedding.weight": (d, 3, 16, 16),
        "embeddings.position_embedding.weight": (5, d),
        "pre_layrnorm": (d,),
        "post_layernorm": (d,),
    }
    for i in range(2):
        block = f"encoder.layers.{i}."
        linear = {f"self_attn.{name}_proj": (d, d) for name in ("q", "k", "v", "out")}
        linear |= {"mlp.fc1": (64, d), "mlp.fc2": (d, 64)}
        shapes |= {f"{block}layer_norm{n}": (d,) for n in (1, 2)}
        shapes |= {f"{block}{name}": shape for name, shape in linear.items()}
    names = {"visual_projection.weight": (24, d)}
    for name, shape in shapes.items():
        if "embeddings" in name:
            names[f"vision_model.{name}"] = shape
        else:
            names[f"vision_model.{name}.weight"] = shape
            names[f"vision_model.{name}.bias"] = shape[:1]
    return {name: filled(name, shape) for name, shape in names.items()}


def filled(name, shape):
    random = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    is_scale = "norm" in name and name.endswith("weight")
    return (1 + 0.1 * random if is_scale else 0.1 * random).astype(np.float32)


def as_timm(state):
    """The same tensors with the names of timm."""
    named = {}
    words = {
        "vision_model.": "",
        "embeddings.class_embedding": "cls_token",
        "embeddings.position_embedding.weight": "pos_embed",
        "embeddings.patch_embedding": "patch_embed.proj",
        "pre_layrnorm": "norm_pre",
        "post_layernorm": "norm",
        "encoder.layers": "blocks",
        "layer_norm": "norm",
        "self_attn.out_proj": "attn.proj",
        "visual_projection": "head",
    }
    for name, tensor in state.items():
        for old, new in words.items():
            name = name.replace(old, new)
        named[name] = tensor[(None,) * (3 - tensor.ndim)] if name in words.values() else tensor
    for i in range(2):
        for leaf in ("weight", "bias"):
            parts = [named.pop(f"blocks.{i}.self_attn.{x}_proj.{leaf}") for x in "qkv"]
            named[f"blocks.{i}.attn.qkv.{leaf}"] = np.concatenate(parts)
    return {**named, "head.bias": np.zeros(24, np.float32)}


def written(folder, state, config):
    files.write(folder / "model.safetensors", state, None)
    (folder / "config.json").write_text(json.dumps(config))
    return convert.load_torch(folder)


def outputs(trained):
    """Tokens after the last norm, and projected class tokens if there is a projection."""
    clips = jnp.asarray(PIXELS.transpose(0, 2, 3, 1)[:, None])
    encoder, params = trained.model.encoder, trained.params
    tokens = jax.jit(encoder.apply)({"params": params["encoder"]}, clips)
    tokens = LayerNorm(encoder.epsilon).apply({"params": params["norm"]}, tokens)
    if "projection" not in params:
        return np.asarray(tokens), None
    return np.asarray(tokens), np.asarray(jax.jit(trained.model.apply)({"params": params}, clips))


TIMM = {
    "architecture": "vit_base_patch16_clip_224",
    "model_args": {"num_heads": 2},
    "pretrained_cfg": {"tag": "openai"},
}


@pytest.mark.parametrize("layout", ["clip", "timm"])
def test_outputs_are_those_of_transformers(layout, tmp_path):
    state = state_of_clip()
    config = CONFIG if layout == "clip" else TIMM
    trained = written(tmp_path, state if layout == "clip" else as_timm(state), config)
    assert trained.report.layout == layout
    tokens, projected = outputs(trained)
    np.testing.assert_allclose(
        tokens[0, 0, :4], [-0.262835103, -0.416584974, 0.988116342, -0.024654764], atol=2e-6
    )
    np.testing.assert_allclose(
        tokens[1, 4, -4:], [-0.462061324, -0.774845669, -0.520505333, 0.309976384], atol=2e-6
    )
    np.testing.assert_allclose(
        projected[0, :4], [-0.046081527, 0.265036575, 0.433078201, 0.384987110], atol=2e-6
    )
    np.testing.assert_allclose(projected.std(ddof=1), 0.49816869135, rtol=1e-5)
    assert trained.normalise.mean == (0.48145466, 0.4578275, 0.40821073)


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_the_encoder_alone(prefix, tmp_path):
    """Of transformers 4 and 5, with what older versions also saved."""
    state = state_of_clip()
    whole, _ = outputs(written(tmp_path, state, CONFIG))
    del state["visual_projection.weight"]
    state = {name.replace("vision_model.", prefix): x for name, x in state.items()}
    state[f"{prefix}embeddings.position_ids"] = np.arange(5)[None]
    trained = written(tmp_path, state, CONFIG)
    assert (trained.report.layout, trained.report.head) == ("clip", "features")
    np.testing.assert_array_equal(outputs(trained)[0], whole)


def test_the_encoder_of_texts_is_ignored(tmp_path):
    state = state_of_clip()
    config = {"model_type": "clip", "vision_config": CONFIG}
    alone = written(tmp_path, state, CONFIG)
    texts = ["text_model.final_layer_norm.weight", "text_projection.weight", "logit_scale"]
    trained = written(tmp_path, state | {name: np.ones(3, np.float32) for name in texts}, config)
    assert set(trained.report.ignored) == set(texts)
    assert trained.model == alone.model


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({"pretrained_cfg": {"tag": "laion2b"}}, "gelu"),
        ({"pretrained_cfg": {"notes": ["natively QuickGELU, use …"]}}, "quick_gelu"),
        ({"architecture": "vit_base_patch16_clip_quickgelu_224"}, "quick_gelu"),
    ],
)
def test_the_activation_is_that_of_the_training(config, activation, tmp_path):
    trained = written(tmp_path, as_timm(state_of_clip()), {**TIMM, "pretrained_cfg": {}, **config})
    assert trained.model.encoder.activation == activation
    assert "activation" not in str(trained.report.assumed)


def test_files_are_only_read(tmp_path):
    trained = written(tmp_path, state_of_clip(), CONFIG)
    for layout in ("clip", "timm"):
        with pytest.raises(ConvertError, match="read only"):
            convert.export(trained, layout)
    with pytest.raises(ConvertError, match="activation='gelu'"):
        convert.export(trained, "mmpretrain")
    with pytest.raises(ConvertError, match=r"config.json: model_type 'siglip'"):
        written(tmp_path, state_of_clip(), {"model_type": "siglip"})
    convert.save(trained, tmp_path / "ours", "clip")
    again = convert.load(tmp_path / "ours")
    assert (again.model, again.normalise) == (trained.model, trained.normalise)
