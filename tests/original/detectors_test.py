"""Backbones are loaded by the detectors, and give our tokens.

`DETECTRON2_DIR` also needs the packages fvcore, iopath, omegaconf, hydra-core, pycocotools, timm.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench.originals import make_importable
from maskfeat_jax import convert
from maskfeat_jax.convert.verify import ORIGINALS, verify
from tests.original.checkpoints import MODELS, with_random_numbers

TOLERANCE = 1e-5  # of the largest number
NEEDS = {"vitdet": ("DETECTRON2_DIR", "fvcore"), "mmseg": ("mmseg", "mmcv", "ftfy")}
NAMES = ["MaskFeat, ViT", "MAE of images", "images, mean"]


def of(layout, *values):
    """The values as parameters of a test that needs the originals of a layout."""
    return pytest.param(layout, *values, marks=pytest.mark.original(*NEEDS[layout]))


def written(name, layout, folder):
    for original in NEEDS[layout]:
        make_importable(original)
    return convert.write(with_random_numbers(MODELS[name]), folder, layout)


@pytest.mark.parametrize(
    ("layout", "name"), [of(layout, name) for layout in NEEDS for name in NAMES]
)
def test_tokens_are_those_of_the_detector(layout, name, tmp_path):
    exported = written(name, layout, tmp_path / "out")
    verified = verify(exported.trained, tmp_path / "out" / "backbone.pth", layout)
    print(name, verified)
    assert verified.largest > 0.1
    assert verified.difference <= TOLERANCE * verified.largest, verified


@pytest.mark.original(*NEEDS["vitdet"])
def test_detectron2_finds_every_tensor_by_its_name(tmp_path):
    """With the pyramid, whose norms must not get ours, and at its own size of images."""
    exported = written("MAE of images", "vitdet", tmp_path / "out")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import SimpleFeaturePyramid, ViT

    net = ViT(
        img_size=128,
        embed_dim=64,
        depth=2,
        num_heads=2,
        window_size=2,
        window_block_indexes=(0,),
        use_rel_pos=True,
        pretrain_img_size=64,
    )
    model = SimpleFeaturePyramid(net, "last_feat", 64, (4.0, 2.0, 1.0, 0.5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = tmp_path / "out" / "backbone.pth"
    DetectionCheckpointer(model).load(f"{path}?matching_heuristics=True")
    for name, tensor in model.state_dict().items():
        ours = exported.state.get(name.removeprefix("net."))
        if name.startswith("net.") and "rel_pos" not in name:
            np.testing.assert_array_equal(tensor.numpy(), ours, err_msg=name)
        else:
            np.testing.assert_array_equal(tensor.numpy(), before[name].numpy(), err_msg=name)


@pytest.mark.original(*NEEDS["mmseg"])
def test_mmsegmentation_resizes_the_positions(tmp_path):
    exported = written("images, mean", "mmseg", tmp_path / "out")
    from mmseg.models.backbones.mae import MAE

    source = {"type": "Pretrained", "checkpoint": str(tmp_path / "out" / "backbone.pth")}
    sizes = {"embed_dims": 64, "num_layers": 2, "num_heads": 2, "out_indices": [1]}
    model = MAE(img_size=(96, 96), init_values=1.0, init_cfg=source, **sizes)
    model.init_weights()
    expected = convert.resized(exported.trained, (1, 96, 96)).params["encoder"]["pos_embed"]
    np.testing.assert_allclose(model.pos_embed.detach().numpy(), expected, atol=1e-6)


@pytest.mark.original(*NEEDS["mmseg"])
def test_the_layer_scale_of_mmsegmentation_must_be_one(tmp_path):
    """Its default is 0.1, which the file cannot change."""
    exported = written("images, mean", "mmseg", tmp_path / "out")
    model = ORIGINALS["mmseg"].read(
        exported.trained, tmp_path / "out" / "backbone.pth", frozenset(exported.state)
    )
    assert all((scale == 1).all() for name, scale in model.named_parameters() if "gamma" in name)
