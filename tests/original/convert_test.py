"""Checkpoints of every layout against the original code: each model that a layout holds, both ways.

With `-s`, pytest prints the largest differences as a table.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from bench.originals import make_importable
from maskfeat_jax import convert
from maskfeat_jax.convert import files
from maskfeat_jax.convert.layouts import LAYOUTS, READ
from maskfeat_jax.convert.verify import ORIGINALS, verify
from maskfeat_jax.models import MViT, create_model
from tests.original.checkpoints import (
    MODELS,
    randomise,
    save_as_original,
    with_random_numbers,
)

NEEDS = {
    "timm": ("timm",),
    "mae": ("MAE_DIR", "timm"),
    "mae_st": ("MAE_ST_DIR",),
    "videomae": ("VIDEOMAE_DIR",),
    "pyslowfast": ("SLOWFAST_DIR",),
    "mmpretrain": ("MMPRETRAIN_DIR", "mmengine", "mmcv"),
    "hf": ("transformers",),
    "torchvision": ("torchvision",),
}
# transformers gives the last norm of VideoMAE an epsilon of 1e-5, whatever config.json says: files
# of ours, which has 1e-6, differ.
TOLERANCES = {("VideoMAE", "hf"): 1e-4, ("videos, VideoMAE", "hf"): 1e-4}
TOLERANCE = 1e-5  # of the largest number


def needs(layout, model):
    videos = layout == "mmpretrain" and isinstance(model.encoder, MViT)
    return ("mmaction", "mmengine", "mmcv") if videos else NEEDS[layout]


def held(name):
    return (MODELS[name].whole + " " + MODELS[name].encoder).split()


def cells():
    for name, made in MODELS.items():
        for layout in held(name):
            marks = [pytest.mark.original(*needs(layout, made.model))]
            marks += [pytest.mark.slow] if made.real else []
            yield pytest.param(name, layout, marks=marks, id=f"{layout}: {name}")


@pytest.fixture(scope="session")
def matrix():
    """Cells of the printed table by row and column."""
    rows = collections.defaultdict(dict)
    yield rows
    print("\n\n| model | " + " | ".join(READ) + " |")
    print("|---" * (len(READ) + 1) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(row.get(layout, "") for layout in READ) + " |")
    print("Largest differences: of a file of the original, of one of ours; largest number.")


def numbers(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_numbers(ours, theirs, like=()):
    """The same bits, but for the constants `like`, which each computes for itself."""
    assert set(ours) == set(theirs)
    different = [name for name in ours if not np.array_equal(ours[name], theirs[name])]
    assert set(different) <= set(like)
    for name in different:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6)


@pytest.mark.parametrize(("name", "layout"), cells())
def test_ours_and_the_original_agree(name, layout, tmp_path, matrix):
    """A file of ours, loaded strictly by theirs; a file of theirs; nothing is lost either way."""
    made = MODELS[name]
    tolerance = TOLERANCES.get((name, layout), TOLERANCE)
    for original in needs(layout, made.model):
        make_importable(original)
    exported = convert.write(with_random_numbers(made), tmp_path / "ours", layout)
    assert (exported.trained.model == made.model) is (layout in made.whole.split())
    if layout == "mmpretrain" and name.startswith("MaskFeat, MViT"):
        matrix[name][layout] = "in no package"
        with pytest.raises(convert.ConvertError, match="a project of mmselfsup"):
            verify(exported.trained, tmp_path / "ours")
        return
    of_ours = verify(exported.trained, tmp_path / "ours")
    (tmp_path / "ours" / "maskfeat_jax.json").unlink()
    back = read(tmp_path / "ours", layout, exported.trained)
    assert_same_numbers(numbers(back.params), numbers(without_key_biases(exported)))

    theirs = ORIGINALS[layout].build(exported.trained, frozenset(exported.state))
    randomise(theirs)
    path = save_as_original(layout, theirs, tmp_path / "theirs", exported.trained)
    imported = read(path, layout, exported.trained)
    of_theirs = verify(imported, path, layout)
    again = convert.export(imported, layout)
    assert_same_numbers(again.state, tensors_of(path, layout), like=again.form.extras)

    largest = max(of_ours.largest, of_theirs.largest)
    matrix[name][layout] = f"{of_theirs.difference:.0e}, {of_ours.difference:.0e}; {largest:.1g}"
    for verified, relative in ((of_ours, tolerance), (of_theirs, TOLERANCE)):
        assert verified.largest > 0.1
        assert verified.difference <= relative * verified.largest, verified


OTHERS = [
    (name, layout)
    for name, made in MODELS.items()
    for layout in READ
    if layout not in held(name) and not made.real
]


@pytest.mark.parametrize(("name", "layout"), OTHERS)
def test_other_layouts_refuse(name, layout, matrix):
    matrix[name].setdefault(layout, "-")
    made = MODELS[name]
    with pytest.raises(convert.ConvertError, match="cannot hold this model"):
        convert.export(with_random_numbers(made), layout)


def oblong(layout, name):
    for original in NEEDS[layout]:
        make_importable(original)
    return with_random_numbers(MODELS[name]._replace(clip=(1, 32, 48)))


def of(layout, *values):
    """The values as parameters of a test that needs the originals of a layout."""
    return pytest.param(layout, *values, marks=pytest.mark.original(*NEEDS[layout]))


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        of("timm", "images, mean"),
        of("mmpretrain", "images, mean"),
        of("hf", "images, class token"),
    ],
)
def test_images_that_are_not_square(layout, name, tmp_path):
    trained = oblong(layout, name)
    convert.write(trained, tmp_path / "ours", layout)
    verified = verify(trained, tmp_path / "ours")
    assert verified.difference <= TOLERANCE * verified.largest
    (tmp_path / "ours" / "maskfeat_jax.json").unlink()
    clip = None if layout in ("timm", "hf") else trained.clip  # theirs is in config.json
    pool = trained.model.pool
    back = convert.load_torch(tmp_path / "ours", heads=2, pool=pool, clip=clip)
    assert back.clip == trained.clip


@pytest.mark.parametrize("layout", [of("mae"), of("mae_st"), of("pyslowfast")])
def test_originals_that_take_squares_only_say_so(layout, tmp_path):
    """Not even `export` writes such a file; of others it may come."""
    trained, kind = oblong(layout, "images, mean"), LAYOUTS[layout]
    state = convert.to_torch(trained.params, layout)
    files.write(tmp_path / kind.file, state, lambda tensors: kind.wrap(tensors, trained))
    with pytest.raises(convert.ConvertError, match="square clips only"):
        verify(trained, tmp_path / kind.file, layout)


@pytest.mark.original("timm")
def test_other_numbers_do_not_agree(tmp_path):
    make_importable("timm")
    trained = with_random_numbers(MODELS["images, mean"])
    convert.write(trained, tmp_path / "file", "timm")
    assert verify(trained, tmp_path / "file").agrees
    trained.params["encoder"]["blocks"]["1"]["mlp"]["fc2"]["bias"][0] += 0.1
    assert not verify(trained, tmp_path / "file").agrees


@pytest.mark.original
def test_encoder_of_pyslowfast_with_separate_maps(tmp_path, matrix):
    """Queries, keys and values with a linear map each are read; written is one for all three."""
    make_importable("SLOWFAST_DIR")
    trained = with_random_numbers(MODELS["MAE of PySlowFast"])
    check_other_names("pyslowfast", trained, "blocks.0.attn.q.weight", tmp_path, matrix)


@pytest.mark.original
def test_published_names_of_mae_st(tmp_path, matrix):
    """Three linear maps also in the decoder, which no PySlowFast writes."""
    import torch

    make_importable("SLOWFAST_DIR")
    trained = with_random_numbers(MODELS["MAE of PySlowFast"])
    theirs = ORIGINALS["pyslowfast"].build(trained, frozenset({"blocks.0.attn.q.weight"}))
    randomise(theirs)
    state = theirs.state_dict()
    for name in [name for name in state if ".attn.qkv." in name]:
        parts = state.pop(name).chunk(3)
        state |= {name.replace("qkv", p): part for p, part in zip("qkv", parts, strict=True)}
    torch.save({"model_state": state}, tmp_path / "published.pyth")
    imported = read(tmp_path / "published.pyth", "pyslowfast", trained)
    verified = verify(imported, tmp_path / "published.pyth")
    matrix["with pred_head.transforms.0.0.attn.q.weight"]["pyslowfast"] = (
        f"{verified.difference:.0e}, -; {verified.largest:.1g}"
    )
    assert verified.difference <= TOLERANCE * verified.largest


@pytest.mark.original("MMPRETRAIN_DIR", "mmengine", "mmcv")
def test_classifier_of_mmpretrain_with_the_head_of_vit(tmp_path, matrix):
    make_importable("MMPRETRAIN_DIR")
    trained = with_random_numbers(MODELS["images, class token"])
    check_other_names("mmpretrain", trained, "head.layers.head.weight", tmp_path, matrix)


def check_other_names(layout, trained, name, folder, matrix):
    """A file of theirs with names that ours never have, and what we write of it."""
    theirs = ORIGINALS[layout].build(trained, frozenset({name}))
    randomise(theirs)
    path = save_as_original(layout, theirs, folder / "theirs", trained)
    assert name in tensors_of(path, layout)
    imported = read(path, layout, trained)
    of_theirs = verify(imported, path)
    of_ours = verify(convert.write(imported, folder / "ours", layout).trained, folder / "ours")
    matrix[f"with {name}"][layout] = f"{of_theirs.difference:.0e}, {of_ours.difference:.0e}"
    assert of_theirs.difference <= TOLERANCE * of_theirs.largest
    assert of_ours == dataclasses.replace(of_theirs, difference=of_ours.difference)
    assert of_ours.difference <= TOLERANCE * of_ours.largest


@pytest.mark.original("timm")
@pytest.mark.parametrize("name", ["images, mean", "images, class token"])
def test_checkpoint_of_the_training_of_timm(name, tmp_path):
    import torch

    make_importable("timm")
    trained = with_random_numbers(MODELS[name])
    theirs = ORIGINALS["timm"].build(trained, frozenset())
    randomise(theirs)
    path = tmp_path / "model_best.pth.tar"
    args = argparse.Namespace(model="vit_base_patch16_224", num_classes=7)
    torch.save({"epoch": 1, "arch": "vit", "state_dict": theirs.state_dict(), "args": args}, path)
    verified = verify(read(path, "timm", trained), path)
    assert verified.difference <= TOLERANCE * verified.largest


TIMM_POOLS = [
    ({"global_pool": "avg", "fc_norm": False}, "mean", "class"),
    ({"global_pool": "avg", "fc_norm": False, "class_token": False}, "mean", "mean"),
    ({"global_pool": "token", "fc_norm": True}, "class", "mean"),
    ({"global_pool": "avg"}, "mean", "mean"),
    ({"global_pool": "token"}, "class", "class"),
]


@pytest.mark.original("timm")
@pytest.mark.parametrize(("arguments", "pool", "assumed"), TIMM_POOLS)
def test_pooling_of_timm_is_assumed_or_given(arguments, pool, assumed, tmp_path):
    """Files with the same names, of which one is read without the right pooling."""
    make_importable("timm")
    import timm
    import torch

    sizes = {"img_size": 64, "num_classes": 7, "embed_dim": 64, "depth": 2, "num_heads": 2}
    theirs = timm.create_model("vit_base_patch16_224", **sizes, **arguments).eval()
    randomise(theirs)
    path = tmp_path / "model.pth"
    torch.save(theirs.state_dict(), path)
    assert f"pool={assumed}" in convert.load_torch(path, heads=2).report.assumed
    trained = convert.load_torch(path, heads=2, pool=pool)
    images = np.random.default_rng(0).standard_normal((2, *trained.clip, 3), np.float32)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(images[:, 0].transpose(0, 3, 1, 2).copy())).numpy()
    ours = trained.model.apply({"params": trained.params}, images)
    np.testing.assert_allclose(ours, wanted, atol=TOLERANCE * np.abs(wanted).max())
    convert.write(trained, tmp_path / "ours", "timm")
    verified = verify(trained, tmp_path / "ours")
    assert verified.difference <= TOLERANCE * verified.largest


@pytest.mark.original("transformers")
@pytest.mark.parametrize("epsilon", [1e-12, 1e-3])
def test_epsilon_of_transformers(epsilon, tmp_path):
    """In shards, with names of classes and without what this package writes."""
    make_importable("transformers")
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    labels = {"id2label": dict(enumerate("abc")), "label2id": {c: i for i, c in enumerate("abc")}}
    config = ViTConfig(
        **sizes, intermediate_size=256, image_size=64, layer_norm_eps=epsilon, **labels
    )
    theirs = ViTForImageClassification(config).eval()  # numbers as small as they start
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    trained = convert.load_torch(tmp_path)
    assert (trained.model.encoder.epsilon, trained.class_names) == (epsilon, tuple("abc"))
    assert not any("epsilon" in text for text in trained.report.assumed)
    images = np.random.default_rng(0).standard_normal((2, *trained.clip, 3), np.float32)
    with torch.no_grad():
        inputs = torch.from_numpy(images[:, 0].transpose(0, 3, 1, 2).copy())
        wanted = theirs(inputs).logits.numpy()
    largest = np.abs(wanted).max()
    ours = trained.model.apply({"params": trained.params}, images)
    np.testing.assert_allclose(ours, wanted, atol=TOLERANCE * largest)
    other = convert.load_torch(tmp_path, epsilon=1e-6)
    others = other.model.apply({"params": trained.params}, images)
    assert np.abs(others - wanted).max() > TOLERANCE * largest


@pytest.mark.original("timm", "transformers")
def test_originals_read_names_of_classes(tmp_path):
    make_importable("timm")
    make_importable("transformers")
    import timm
    from transformers import AutoConfig

    names = ("ant", "bee", "caf\u00e9", os.fsdecode(b"caf\xe9"), "e", "f", "g")
    trained = with_random_numbers(MODELS["images, class token"])
    trained = dataclasses.replace(trained, class_names=names)
    for layout in ("timm", "hf"):
        convert.write(trained, tmp_path / layout, layout)
        found = AutoConfig.from_pretrained(tmp_path / layout)
        assert found.id2label == dict(enumerate(names))
        assert found.num_labels == 7
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    assert tuple(model.pretrained_cfg["label_names"]) == names


@pytest.mark.slow
@pytest.mark.original("torchvision")
def test_stock_model_of_torchvision_is_told_from_its_file(tmp_path):
    import torch

    make_importable("torchvision")
    from torchvision.models.video import mvit_v2_s

    theirs = mvit_v2_s(weights=None).eval()
    randomise(theirs)
    torch.save(theirs.state_dict(), tmp_path / "mvit.pth")
    trained = convert.load_torch(tmp_path / "mvit.pth")
    head = {"num_classes": 400, "pool": "class"}
    assert trained.model == create_model("classifier", encoder="mvit_v2_s_supervised", head=head)
    clips = np.random.default_rng(0).standard_normal((1, *trained.clip, 3), np.float32)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(clips.transpose(0, 4, 1, 2, 3).copy())).numpy()
    ours = jax.jit(trained.model.apply)({"params": trained.params}, clips)
    np.testing.assert_allclose(ours, wanted, atol=TOLERANCE * np.abs(wanted).max())


@pytest.mark.original("timm", "transformers")
@pytest.mark.parametrize("name", ["images, mean", "images, class token"])
def test_transformers_load_the_folder_of_timm(name, tmp_path):
    import torch

    make_importable("transformers")
    from transformers import AutoModelForImageClassification

    trained = with_random_numbers(MODELS[name])
    convert.write(trained, tmp_path / "timm", "timm")
    theirs, info = AutoModelForImageClassification.from_pretrained(
        tmp_path / "timm", output_loading_info=True
    )
    assert not any(info.values())
    images = np.random.default_rng(0).standard_normal((2, *trained.clip, 3), np.float32)
    with torch.no_grad():
        inputs = torch.from_numpy(images[:, 0].transpose(0, 3, 1, 2).copy())
        wanted = theirs.eval()(inputs).logits.numpy()
    ours = trained.model.apply({"params": trained.params}, images)
    np.testing.assert_allclose(ours, wanted, atol=TOLERANCE * np.abs(wanted).max())


@pytest.mark.original("transformers")
def test_encoder_of_transformers_with_what_is_not_needed(tmp_path):
    """A linear map after the norm, and a mask token."""
    make_importable("transformers")
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(**sizes, intermediate_size=256, image_size=64, layer_norm_eps=1e-6)
    theirs = ViTModel(config, use_mask_token=True)
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    trained = convert.load_torch(tmp_path)
    left = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.mask_token"}
    assert set(trained.report.ignored) == left
    named = {tensor: files.read(tmp_path).tensors[tensor].shape for tensor in left}
    assert named["embeddings.mask_token"] == (1, 1, 64)


# Of transformers; version 4 in its own process, as only one version can be imported.
OF_TRANSFORMERS = [name for name in MODELS if "hf" in held(name) and not MODELS[name].real]


@pytest.mark.original("transformers", "TRANSFORMERS_4_DIR")
def test_transformers_4_reads_and_writes_the_same(tmp_path, matrix):
    make_importable("transformers")
    exported = {}
    for name in OF_TRANSFORMERS:
        trained = with_random_numbers(MODELS[name])
        exported[name] = convert.write(trained, tmp_path / "ours" / name, "hf")
    found = subprocess.run(
        [sys.executable, "-m", "tests.original.transformers_4", tmp_path],
        env={**os.environ, "PYTHONPATH": f"{os.environ['TRANSFORMERS_4_DIR']}:."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    of_ours = json.loads(found.stdout.splitlines()[-1])
    for name in OF_TRANSFORMERS:
        tolerance = TOLERANCES.get((name, "hf"), TOLERANCE)
        difference, largest = of_ours[name]
        assert difference <= tolerance * largest
        path = tmp_path / "theirs" / name
        of_theirs = verify(read(path, "hf", exported[name].trained), path)  # by version 5
        assert of_theirs.difference <= tolerance * of_theirs.largest
        matrix[f"transformers 4: {name}"]["hf"] = f"{of_theirs.difference:.0e}, {difference:.0e}"


def tensors_of(path, layout):
    """Tensors of a file under the names that they are written with."""

    def name_now(name):
        for pattern, text in LAYOUTS[layout].old_names.items():
            name = re.sub(pattern, text, name)
        return name

    return {name_now(name): tensor.read() for name, tensor in files.read(path).tensors.items()}


def read(path, layout, like):
    """A file of which nothing is known but what it cannot tell."""
    # Fine-tuned models of timm and of MAE have the same names.
    named = layout if layout == "mae" else None
    pool = getattr(like.model, "pool", None)
    hints = {"heads": like.model.encoder.heads, "pool": pool}
    hints |= {"clip": like.clip} if layout == "videomae" else {}  # it has no table of positions
    trained = convert.load_torch(path, named, **hints)
    assert trained.report.layout == layout
    assert trained.clip == like.clip
    assert type(trained.model) is type(like.model)
    learnt = (
        {"positions": "joint"} if getattr(like.model.encoder, "positions", "") == "sincos" else {}
    )
    encoder = like.model.encoder.clone(**learnt)
    decoder = {"positions": "joint"} if getattr(like.model, "positions", "") == "sincos" else {}
    last = getattr(trained.model, "last_epsilon", None)  # that of VideoMAE is in the code
    fixed = {"last_epsilon": last} if layout == "hf" and last else {}
    assert trained.model == like.model.clone(encoder=encoder, **decoder, **fixed)
    return trained


def without_key_biases(exported):
    """Parameters without the biases for which their layout has no tensor."""
    if not any("biases of the keys" in sentence for sentence in exported.left_out):
        return exported.trained.params
    params = jax.tree.map(np.copy, exported.trained.params)
    for part in ("encoder", "decoder"):
        for block in params.get(part, {}).get("blocks", {}).values():
            bias = block["attn"]["qkv"]["bias"]
            bias[len(bias) // 3 : 2 * len(bias) // 3] = 0
    return params
