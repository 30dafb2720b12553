"""CLIP's image encoder in files of the originals, against the originals."""

from __future__ import annotations

import json

import pytest

from bench.originals import make_importable
from maskfeat_jax import convert
from maskfeat_jax.convert.verify import verify
from tests.original.checkpoints import randomise

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "image_size": 64, "patch_size": 16}


@pytest.mark.original("transformers")
@pytest.mark.parametrize(
    ("kind", "activation"),
    [
        ("CLIPVisionModel", "quick_gelu"),
        ("CLIPVisionModel", "gelu"),
        ("CLIPVisionModelWithProjection", "quick_gelu"),
        ("CLIPModel", "quick_gelu"),
    ],
)
def test_transformers(kind, activation, tmp_path):
    make_importable("transformers")
    import transformers

    config = transformers.CLIPVisionConfig(**SIZES, hidden_act=activation, projection_dim=24)
    if kind == "CLIPModel":
        texts = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.CLIPConfig(
            text_config={**texts, "intermediate_size": 32, "vocab_size": 50},
            vision_config=config.to_dict(),
            projection_dim=24,
        )
    model = getattr(transformers, kind)(config)
    randomise(model)
    model.save_pretrained(tmp_path)
    trained = convert.load_torch(tmp_path)
    assert (trained.report.layout, trained.model.encoder.activation) == ("clip", activation)
    assert verified(trained, tmp_path) <= 1e-5


@pytest.mark.original("timm")
@pytest.mark.parametrize("name", ["clip_quickgelu_224", "clip_224"])
@pytest.mark.parametrize("classes", [0, 24])
def test_timm(name, classes, tmp_path):
    make_importable("timm")
    import timm
    from safetensors.torch import save_file

    arguments = {"img_size": [64, 64], "embed_dim": 64, "depth": 2, "num_heads": 2}
    architecture = f"vit_base_patch16_{name}"
    model = timm.create_model(architecture, num_classes=classes, **arguments)
    randomise(model)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": architecture, "num_classes": classes, "model_args": arguments}
    config["pretrained_cfg"] = {"num_classes": classes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    trained = convert.load_torch(tmp_path)
    assert trained.model.encoder.activation == ("quick_gelu" if "quick" in name else "gelu")
    assert verified(trained, tmp_path) <= 1e-5


def verified(trained, path):
    """The largest difference, relative to the largest number."""
    found = verify(trained, path)
    print(found)
    return found.difference / found.largest
