from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.models import create_encoder, create_model, mvit
from maskfeat_jax.models.layers import LayerNorm
from maskfeat_jax.models.pooling_attention import PoolingBlock
from tests.models.initial import initial, shapes_of

PRETRAINING, FINETUNING = (2, 16, 16), (2, 32, 32)
TINY = {"width": 8, "depth": 5, "heads": 1, "stages": (1, 2), "tubelet": (2, 16, 16)}


def tiny(**fields):
    return create_model("maskfeat", encoder="mvit_v2_s", head={"dim": 5}, **{**TINY, **fields})


def clips_and_mask(batch=2, grid=(2, 4, 6)):
    keys = jax.random.split(jax.random.key(0), 2)
    clips = jax.random.normal(keys[0], (batch, 4, 32, 48, 3))
    return clips, jax.random.bernoulli(keys[1], 0.5, (batch, *grid))


@pytest.mark.parametrize(
    ("head", "variant", "clip", "expected"),
    [
        ("maskfeat", "mvit_v2_s", (16, 224, 224), 36_253_356),
        ("classifier", "mvit_v2_s", (16, 224, 224), 36_475_120),
        ("maskfeat", "mvit_v2_l", (16, 224, 224), 217_247_580),
        ("classifier", "mvit_v2_l", (16, 224, 224), 217_578_064),
        ("classifier", "mvit_v2_s_supervised", (16, 224, 224), 34_537_744),
        ("classifier", "mvit_v2_b_supervised", (32, 224, 224), 51_230_128),
        ("classifier", "mvit_v2_l_supervised", (40, 312, 312), 213_390_112),
        ("classifier", "mvit_v2_l", (40, 312, 312), 217_747_696),
        ("classifier", "mvit_v2_l", (40, 352, 352), 217_795_792),
    ],
)
def test_parameters_equal_pyslowfast_in_number(head, variant, clip, expected):
    fields = {"maskfeat": {"dim": 108}, "classifier": {"num_classes": 400}}[head]
    tubelet = PRETRAINING if head == "maskfeat" else FINETUNING
    model = create_model(head, encoder=variant, head=fields, tubelet=tubelet, scan=True)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(model, clip))) == expected


# Blocks, width out, heads, MLP hidden, tokens out, keys, rows of height and width.
START_S = [
    ([0], 192, 1, 384, 25089, 393, 111),
    ([1], 192, 2, 768, 6273, 1569, 55),
    ([2], 384, 2, 768, 6273, 393, 55),
    ([3], 384, 4, 1536, 1569, 1569, 27),
    (range(4, 13), 384, 4, 1536, 1569, 393, 27),
    ([13], 768, 4, 1536, 1569, 393, 27),
]
START_L = [
    ([0], 144, 2, 576, 25089, 393, 111),
    ([1], 288, 2, 576, 25089, 393, 111),
    ([2], 288, 4, 1152, 6273, 1569, 55),
    (range(3, 7), 288, 4, 1152, 6273, 393, 55),
    ([7], 576, 4, 1152, 6273, 393, 55),
    ([8], 576, 8, 2304, 1569, 1569, 27),
    (range(9, 43), 576, 8, 2304, 1569, 393, 27),
    ([43], 1152, 8, 2304, 1569, 393, 27),
]
TABLES = {
    ("mvit_v2_s", PRETRAINING): [*START_S, ([14, 15], 768, 8, 3072, 1569, 393, 27)],
    ("mvit_v2_s", FINETUNING): [
        *START_S,
        ([14], 768, 8, 3072, 393, 1569, 27),
        ([15], 768, 8, 3072, 393, 393, 13),
    ],
    ("mvit_v2_l", PRETRAINING): [*START_L, (range(44, 48), 1152, 16, 4608, 1569, 393, 27)],
    ("mvit_v2_l", FINETUNING): [
        *START_L,
        ([44], 1152, 16, 4608, 393, 1569, 27),
        (range(45, 48), 1152, 16, 4608, 393, 393, 13),
    ],
}


@pytest.mark.parametrize(("variant", "tubelet"), TABLES)
def test_blocks_have_the_shapes_of_pyslowfast(variant, tubelet):
    encoder = create_encoder(variant, tubelet=tubelet, scan=False)
    clips = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.float32)

    def run(key, clips):
        return encoder.apply(
            {},
            clips,
            rngs={"params": key},
            mutable=["params", "intermediates"],
            capture_intermediates=lambda m, _: isinstance(m, LayerNorm | PoolingBlock),
        )[1]

    variables = jax.eval_shape(run, jax.random.key(0), clips)
    params, outputs = (variables[part]["blocks"] for part in ("params", "intermediates"))
    seen = 0
    for blocks, width, heads, hidden, tokens, keys, rows in TABLES[variant, tubelet]:
        for i in map(str, blocks):
            out, attention = outputs[i], params[i]["attn"]
            d = 96 if variant == "mvit_v2_s" else 72
            assert out["__call__"][0][0].shape == (1, tokens, width)
            assert out["attn"]["norm_k"]["__call__"][0].shape == (1, keys, heads, d)
            assert out["attn"]["norm_v"]["__call__"][0].shape == (1, keys, heads, d)
            assert params[i]["mlp"]["fc1"]["kernel"].shape[1] == hidden
            assert attention["rel_pos_h"].shape == attention["rel_pos_w"].shape == (rows, d)
            assert attention["rel_pos_t"].shape == (15, d)
            seen += 1
    assert seen == len(params) == len(outputs)


def test_masked_pixels_have_no_influence_and_visible_ones_have():
    clips, _ = clips_and_mask(batch=1)
    mask = np.zeros((1, 2, 2, 3), bool)
    mask[0, 1, 0, 1] = True
    model = tiny()
    params = initial(model, clips, mask)
    gradient = jax.grad(lambda x: jnp.sum(model.apply({"params": params}, x, mask) ** 2))
    seen = np.asarray(jnp.abs(jax.jit(gradient)(clips))[0].max(-1) > 0)
    # Visible patches below and to the right begin 3 pixels earlier. In time the masked ones are the
    # last; those before them see frames 0 and 1.
    hidden = np.zeros_like(seen)
    hidden[2:, :13, 16:29] = True
    np.testing.assert_array_equal(seen, ~hidden)


def test_initialisation():
    encoder = create_encoder("mvit_v2_s", width=96, depth=2, stages=(1,), tubelet=(2, 8, 8))
    clips = np.zeros((1, 2, 16, 16, 3), np.float32)
    params = jax.jit(encoder.init)(jax.random.key(0), clips, np.zeros((1, 1, 2, 2), bool))
    params = params["params"]
    block = params["blocks"]["0"]
    for leaf in (
        block["attn"]["qkv"]["kernel"],
        block["attn"]["pool_k"]["kernel"],
        block["attn"]["rel_pos_h"],
        block["proj"]["kernel"],
        params["cls_token"],
        params["mask_token"],
    ):
        assert abs(float(leaf.std()) / 0.02 - 1) < 5 * (2 * leaf.size) ** -0.5
    assert not np.asarray(block["attn"]["norm_q"]["bias"]).any()
    assert (np.asarray(block["attn"]["norm_q"]["scale"]) == 1).all()
    assert params["patch_embed"]["kernel"].shape == (3, 7, 7, 3, 96)
    assert 0.9 / 21 < float(jnp.abs(params["patch_embed"]["bias"]).max()) <= 1 / 21


def test_refuses():
    encoder = create_encoder("mvit_v2_s")
    for clip in ((16, 224, 226), (15, 224, 224)):
        sizes = "x".join(map(str, clip))
        with pytest.raises(
            ValueError, match=f"clip {sizes} is not a whole number of 2x4x4 tubelets"
        ):
            encoder.grid(clip)
        with pytest.raises(ValueError, match=f"clip {sizes} is not a whole number"):
            jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, *clip, 3)))
    with pytest.raises(ValueError, match=r"mask of \(2, 4, 4\) tokens; the clip has \(2, 2, 3\)"):
        initial(tiny(), clips_and_mask()[0], jnp.zeros((2, 2, 4, 4), bool))
    with pytest.raises(ValueError, match=r"tubelet=\(2, 16, 32\) is not one of \(2, 4, 4\), "):
        create_encoder("mvit_v2_s", tubelet=(2, 16, 32))
    with pytest.raises(
        ValueError, match=r"stages=\(1, 16\) do not increase between 0 and depth=16"
    ):
        create_encoder("mvit_v2_s", stages=(1, 16))
    with pytest.raises(ValueError, match="widen_in='head' is not one of mlp, attention"):
        create_encoder("mvit_v2_s", widen_in="head")
    with pytest.raises(ValueError, match="width 97 is not a whole number of 2 heads"):
        create_encoder("mvit_v2_l", width=97)


@pytest.mark.parametrize("patch", [(2, 4, 4), (1, 4, 4)])
def test_products_of_cells_are_the_convolution(patch):
    rng = np.random.default_rng(0)
    clips = rng.standard_normal((2, 4, 8, 12, 3), np.float32)
    kernel = rng.standard_normal((*mvit.kernel_of(patch), 3, 5), np.float32)
    expected, of_expected = jax.vjp(lambda *x: mvit.convolution(*x, patch), clips, kernel)
    found, of_found = jax.vjp(lambda *x: mvit.products_of_cells(*x, patch), clips, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(of_found(expected), of_expected(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-2)
