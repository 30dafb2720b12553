"""What tensors do not show is listed as assumed, and each can be given."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax import convert
from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints.pretrained import write_description
from maskfeat_jax.convert import ConvertError, files
from maskfeat_jax.convert.__main__ import main as command
from maskfeat_jax.convert.importing import shapes_of
from maskfeat_jax.models import create_model
from maskfeat_jax.models.layers import LayerNorm
from tests.convert.models import LARGE, small

NORMALISE = Normalise((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
TENSORS = {"clip", "normalise"}
FREE = {"epsilon", "activation"}  # left to the user of the original code
PRETRAINED = {"decoder_heads", "mask_ratio"}
OF_MVIT = {"normalise", "kv_stride", "residual_pooling", "head"}
# layout, model: what is assumed when nothing but the tensors (and the heads) is known.
ASSUMED = {
    ("timm", "mean"): TENSORS | FREE | {"pool"},
    ("timm", "class"): TENSORS | FREE | {"pool"},
    ("timm", "features"): TENSORS | FREE | {"pool"},
    ("mae", "class"): TENSORS | {"epsilon"},
    ("mae", "mae"): TENSORS | {"epsilon"} | PRETRAINED,
    ("mae", "linear_probe"): TENSORS | {"epsilon"},
    ("mae_st", "mean_video"): TENSORS | {"epsilon"},
    ("mae_st", "mae_st"): TENSORS | {"epsilon"} | PRETRAINED,
    ("pyslowfast", "mean"): TENSORS | {"head", "pool", "fixed_sincos"},
    ("pyslowfast", "mean_mvit"): OF_MVIT | {"pool"},
    ("pyslowfast", "mae_pyslowfast"): TENSORS | PRETRAINED | {"fixed_sincos"},
    ("mmpretrain", "class"): TENSORS | FREE | {"pool"},
    ("mmpretrain", "mean"): TENSORS | FREE,
    ("mmpretrain", "mae"): TENSORS | FREE | PRETRAINED,
    ("hf", "class"): TENSORS | FREE,
    ("hf", "mean"): TENSORS | FREE,
    ("hf", "mae"): TENSORS | FREE | PRETRAINED,
    ("torchvision", "class_mvit"): {"normalise", "kv_stride", "epsilon", "residual_pooling"},
}


def stored(folder, state):
    """A file of bare tensors."""
    files.write(folder / "model.safetensors", state, None)
    return folder / "model.safetensors"


def names(read):
    return {text.partition("=")[0] for text in read.report.assumed}


def settings_of(trained, assumed):
    """The values of these settings in a model."""
    model, encoder = trained.model, trained.model.encoder
    values = {
        "clip": lambda: trained.clip,
        "normalise": lambda: NORMALISE,
        "heads": lambda: encoder.heads,
        "epsilon": lambda: encoder.epsilon,
        "activation": lambda: getattr(encoder, "activation", "gelu"),
        "residual_pooling": lambda: True,
        "fixed_sincos": lambda: False,
        "head": lambda: "classifier",
        "pool": lambda: model.pool,
        "kv_stride": lambda: encoder.kv_stride,
        "tubelet": lambda: encoder.tubelet,
        "decoder_heads": lambda: model.heads,
        "mask_ratio": lambda: 1 - model.visible / np.prod(encoder.grid(trained.clip)),
    }
    return {name: values[name]() for name in assumed}


@pytest.mark.parametrize(("layout", "name"), ASSUMED)
def test_what_tensors_do_not_show_is_assumed_or_given(layout, name, tmp_path):
    trained = small(name, without_key_bias=layout == "hf")
    path = stored(tmp_path, convert.export(trained, layout).state)
    heads = {} if "mvit" in name else {"heads": 2}
    assumed = ASSUMED[layout, name]
    assert names(convert.load_torch(path, layout, **heads)) == assumed
    given = settings_of(trained, assumed)
    read = convert.load_torch(path, layout, **heads, **given)
    assert read.report.assumed == ()
    assert read.normalise == NORMALISE
    assert settings_of(read, assumed) == given
    for key in given:
        others = {name: value for name, value in given.items() if name != key}
        assert names(convert.load_torch(path, layout, **heads, **others)) == {key}


def test_a_classifier_of_boxes_has_the_tensors_of_a_classifier(tmp_path, capsys):
    trained = small("boxes")
    path = stored(tmp_path, convert.export(trained, "pyslowfast").state)
    assert convert.load_torch(path, heads=2).report.head == "classifier"
    read = convert.load_torch(path, heads=2, head="boxes")
    assert (read.model, read.report.head) == (trained.model, "boxes")
    assert names(read) == TENSORS | {"fixed_sincos", "bins"}
    command([str(path), "--heads=2", "--head=boxes", "--bins=3", "--pool=mean"])
    text = capsys.readouterr().out
    assert "'boxes', num_classes=5, dropout=0.5, bins=3" in text
    assert "not a setting of this model: pool" in text
    write_description(tmp_path, trained, "pyslowfast", [path])
    for head, expected in ((None, "boxes"), ("classifier", "classifier")):
        assert convert.load_torch(path, heads=2, head=head).report.head == expected
    assert convert.load_torch(path, bins=3).model.bins == 3


@pytest.mark.parametrize(("layout", "name"), [("timm", "mean"), ("pyslowfast", "maskfeat")])
def test_other_tensors_are_of_no_classifier_of_boxes(layout, name, tmp_path):
    path = stored(tmp_path, convert.export(small(name), layout).state)
    with pytest.raises(ConvertError, match=f"head='boxes', but in layout '{layout}' .* of head"):
        convert.load_torch(path, heads=2, head="boxes")


@pytest.mark.parametrize("class_token", [True, False])
def test_the_mean_of_tokens_after_the_norm(class_token, tmp_path):
    """timm's `global_pool="avg", fc_norm=False` has the names of its class token."""
    made = small("mean")
    encoder = made.model.encoder.clone(class_token=class_token)
    model = made.model.clone(encoder=encoder, norm_of="tokens")
    params = {**made.params, "encoder": dict(made.params["encoder"])}
    if not class_token:
        del params["encoder"]["cls_token"]
        params["encoder"]["pos_embed"] = params["encoder"]["pos_embed"][:, 1:]
    trained = dataclasses.replace(made, model=model, params=params)
    state = convert.export(trained, "timm").state
    assert "norm.weight" in state
    tokens = encoder.apply({"params": params["encoder"]}, jnp.ones((2, *made.clip, 3)))
    normed = LayerNorm().apply({"params": params["norm"]}, tokens)
    mean = np.asarray(normed)[:, int(class_token) :].mean(1)
    head = params["projection"]
    expected = mean @ head["kernel"] + head["bias"]

    path = stored(tmp_path, state)
    read = convert.load_torch(path, heads=2, pool="mean")
    found = read.model.apply({"params": read.params}, jnp.ones((2, *made.clip, 3)))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    plain = convert.load_torch(path, heads=2)
    assert f"pool={'class' if class_token else 'mean'}" in plain.report.assumed
    convert.write(trained, tmp_path / "out", "timm")  # config.json has both, and agrees
    (tmp_path / "out" / "maskfeat_jax.json").unlink()
    assert convert.load_torch(tmp_path / "out").model == model


def test_a_norm_of_the_pooled_class_token(tmp_path):
    """timm's `fc_norm=True`; the order makes no difference to one token."""
    trained = small("class")
    state = convert.export(trained, "timm").state
    state = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: tensor
             for name, tensor in state.items()}  # fmt: skip
    read = convert.load_torch(stored(tmp_path, state), heads=2, pool="class")
    assert read.model == trained.model


def test_halving_in_a_last_stage_of_one_block(tmp_path):
    """Its tables have the same lengths with and without it."""
    fields = {"encoder": "mvit_v2_s", "width": 8, "depth": 4, "stages": (1, 2, 3)}
    model = create_model("classifier", head={"num_classes": 5}, tubelet=(2, 16, 16), **fields)
    shapes = shapes_of(model, LARGE)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    path = stored(tmp_path, convert.to_torch(params, "pyslowfast"))
    read = convert.load_torch(path)
    assert read.model.encoder.tubelet == (2, 32, 32)
    assert "tubelet=(2, 32, 32)" in read.report.assumed
    read = convert.load_torch(path, tubelet=(2, 16, 16))
    assert read.model.encoder.tubelet == (2, 16, 16)
    assert "tubelet" not in str(read.report.assumed)


def test_epsilon_and_pool_of_architectures_in_config_json(tmp_path):
    convert.write(small("class"), tmp_path / "out", "timm")
    (tmp_path / "out" / "maskfeat_jax.json").unlink()
    assert names(convert.load_torch(tmp_path / "out")) == {"clip"}
    config = tmp_path / "out" / "config.json"
    document = json.loads(config.read_text())
    document["architecture"] = "vit_base_patch16_siglip_224"
    config.write_text(json.dumps(document))
    assert names(convert.load_torch(tmp_path / "out")) == {"clip"} | FREE


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("mean", {"activation": "relu"}, "activation 'relu'; expected gelu or quick_gelu"),
        ("mean_mvit", {"activation": "quick_gelu"}, "an MViT has 'gelu'"),
        ("mean", {"epsilon": 0}, "epsilon 0"),
        ("mean", {"epsilon": "1e-6"}, "epsilon '1e-6'"),
        ("mean", {"tubelet": (1, 8, 8)}, "tubelet=.*the patch embedding has"),
        ("mean_mvit", {"epsilon": 1e-5}, "an MViT have 1e-6"),
        ("mean_mvit", {"residual_pooling": False}, "residual_pooling False; expected True"),
        ("mean_mvit", {"tubelet": (2, 64, 64)}, "no MViT with stages|tubelet"),
    ],
)
def test_values_that_the_models_cannot_have_are_refused(name, given, words, tmp_path):
    layout = "pyslowfast" if "mvit" in name else "timm"
    path = stored(tmp_path, convert.export(small(name), layout).state)
    with pytest.raises(ConvertError, match=words):
        convert.load_torch(path, layout, heads=None if "mvit" in name else 2, **given)


def test_settings_of_other_models_are_reported(tmp_path):
    path = stored(tmp_path, convert.export(small("mean"), "timm").state)
    read = convert.load_torch(path, heads=2, decoder_heads=3, kv_stride=4)
    assert "given, but not a setting of this model: decoder_heads, kv_stride" in read.report.found


def test_given_settings_override_the_description_of_this_package(tmp_path):
    convert.write(small("mean"), tmp_path / "out", "timm")
    read = convert.load_torch(tmp_path / "out", epsilon=1e-5, class_names=list("abcde"))
    assert read.model.encoder.epsilon == 1e-5
    assert read.class_names == tuple("abcde")


def test_each_has_an_option(tmp_path, capsys):
    state = convert.export(small("class"), "timm").state
    path = stored(tmp_path, {f"net.model.{name}": tensor for name, tensor in state.items()})
    words = (
        "--heads=2 --pool=mean --epsilon=1e-5 --activation=gelu --prefix=net.model --clip 1 48 48"
    )
    colours = "--mean 0.1 0.2 0.3 --std 0.4 0.5 0.6"
    command([str(path), *words.split(), *colours.split()])
    text = capsys.readouterr().out
    assert "assumed" not in text
    for value in (
        "epsilon=1e-05",
        "norm_of='tokens'",
        "mean=(0.1, 0.2, 0.3)",
        "prefix 'net.model.'",
    ):
        assert value in text
    with pytest.raises(SystemExit) as caught:
        command([str(path), "--mean", "0.1", "0.2", "0.3"])
    assert caught.value.code == 65
    assert "--mean and --std: give both" in capsys.readouterr().err
    path = stored(tmp_path, convert.export(small("mean_mvit"), "pyslowfast").state)
    command([str(path), *["--kv-stride=8", "--residual-pooling", "--tubelet", "2", "16", "16"]])
    assert "tubelet=(2, 16, 16)" in capsys.readouterr().out
    path = stored(tmp_path, convert.export(small("mae"), "mae").state)
    command([str(path), *["--heads=2", "--decoder-heads=8", "--mask-ratio=0.5"]])
    assert "visible=4" in capsys.readouterr().out


def test_an_epsilon_that_the_original_cannot_have_is_reported():
    trained = small("class")
    model = trained.model.clone(encoder=trained.model.encoder.clone(epsilon=1e-12))
    trained = dataclasses.replace(trained, model=model)
    (sentence,) = convert.export(trained, "mae").left_out
    assert sentence.startswith("epsilon of the layer norms here: 1e-12")
    assert not any("epsilon" in text for text in convert.export(trained, "hf").left_out)
