from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.models import VARIANTS, create_encoder, create_model
from maskfeat_jax.models.layers import LayerNorm, stack_blocks, unstack_blocks
from maskfeat_jax.models.pooling_attention import PoolingBlock
from maskfeat_jax.transfer import transfer
from tests.models.initial import initial

PRETRAINING, FINETUNING = (2, 16, 16), (2, 32, 32)
TINY = {"width": 8, "depth": 5, "heads": 1, "stages": (1, 2), "tubelet": (2, 16, 16)}
SHORT = {"depth": 3, "stages": (1,), "tubelet": (2, 8, 8)}  # for what does not depend on depth


def tiny(**fields):
    return create_model("maskfeat", encoder="mvit_v2_s", head={"dim": 5}, **{**TINY, **fields})


def clips_and_mask(batch=2, grid=(2, 4, 6)):
    keys = jax.random.split(jax.random.key(0), 2)
    clips = jax.random.normal(keys[0], (batch, 4, 32, 48, 3))
    return clips, jax.random.bernoulli(keys[1], 0.5, (batch, *grid))


def shapes_of(head, variant, clip=(16, 224, 224), **fields):
    """Shapes of the parameters of a MaskFeat model or a classifier of 400 classes."""
    model = create_model(
        head,
        encoder=variant,
        head={"dim": 108} if head == "maskfeat" else {"num_classes": 400},
        **fields,
    )
    inputs = [jax.ShapeDtypeStruct((1, *clip, 3), jnp.float32)]
    if head == "maskfeat":
        inputs.append(jax.ShapeDtypeStruct((1, *model.encoder.grid(clip)), bool))
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def count(shapes):
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("variant", "pretraining", "finetuning"),
    [("mvit_v2_s", 36_253_356, 36_475_120), ("mvit_v2_l", 217_247_580, 217_578_064)],
)
def test_parameters_equal_pyslowfast_in_number(variant, pretraining, finetuning):
    assert count(shapes_of("maskfeat", variant, tubelet=PRETRAINING, scan=True)) == pretraining
    assert count(shapes_of("classifier", variant, scan=True)) == finetuning


@pytest.mark.parametrize(
    ("variant", "size", "wanted"),
    [
        ("mvit_v2_s_supervised", (16, 224, 224), 34_537_744),
        ("mvit_v2_b_supervised", (32, 224, 224), 51_230_128),
        ("mvit_v2_l_supervised", (40, 312, 312), 213_390_112),
        ("mvit_v2_l", (40, 312, 312), 217_747_696),
        ("mvit_v2_l", (40, 352, 352), 217_795_792),
    ],
)
def test_parameters_of_other_forms_and_sizes(variant, size, wanted):
    assert count(shapes_of("classifier", variant, size, scan=True)) == wanted


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
    encoder = create_encoder(variant, tubelet=tubelet)
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


def test_equal_blocks_are_scanned_together():
    def runs(**fields):
        return sorted(shapes_of("classifier", scan=True, **fields)["encoder"]["blocks"])

    assert runs(variant="mvit_v2_s") == sorted(["0", "1", "2", "3", "4-12", "13", "14", "15"])
    wanted = ["0", "1", "2", "3-6", "7", "8", "9-42", "43", "44", "45-47"]
    assert runs(variant="mvit_v2_l") == sorted(wanted)
    assert "44-47" in runs(variant="mvit_v2_l", tubelet=PRETRAINING)


def test_scan_and_remat_change_nothing():
    inputs = clips_and_mask(batch=1)
    fields = {**SHORT, "depth": 4}
    plain, other = tiny(**fields), tiny(**fields, scan=True, remat=True)
    params = initial(plain, *inputs)
    like = jax.eval_shape(other.init, jax.random.key(0), *inputs)["params"]
    assert set(like["encoder"]["blocks"]) == {"0", "1", "2-3"}

    def loss(model):
        return jax.jit(
            jax.value_and_grad(lambda p: jnp.sum(jnp.sin(model.apply({"params": p}, *inputs))))
        )

    wanted, wanted_grads = loss(plain)(params)
    value, grads = loss(other)(stack_blocks(params, like))
    np.testing.assert_allclose(value, wanted, rtol=1e-4)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted_grads))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale),
        unstack_blocks(grads),
        wanted_grads,
    )


@pytest.mark.parametrize("name", sorted(name for name in VARIANTS if name.startswith("mvit")))
def test_variants_take_any_clip_of_whole_patches(name):
    encoder = create_encoder(name, scan=True)
    clips = jax.ShapeDtypeStruct((2, 6, 64, 100, 3), jnp.float32)
    out = jax.eval_shape(encoder.init_with_output, jax.random.key(0), clips)[0]
    assert encoder.grid((6, 64, 100)) == (3, 2, 4)
    assert out.shape == (2, 1 + 3 * 2 * 4, 8 * encoder.width)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "sides", "rows"),
    [(312, (78, 39, 20, 10), (155, 77, 37, 17)), (352, (88, 44, 22, 11), (175, 87, 43, 21))],
)
def test_large_clips_train(size, sides, rows):
    """The grids of 40x3 clips of MaskFeat, at a fraction of the width and few frames."""
    patches, *later = sides
    for i, side in enumerate(later):
        tubelet = (2, 8 << i, 8 << i)
        assert (
            create_encoder("mvit_v2_l", tubelet=tubelet).grid((40, size, size))[1:] == (side,) * 2
        )
    fields = {"width": 4, "depth": 5, "heads": 1, "stages": (1, 2, 3), "drop_path": 0.1}
    model = create_model("classifier", encoder="mvit_v2_l", head={"num_classes": 3}, **fields)
    clips = jax.random.normal(jax.random.key(0), (1, 2, size, size, 3))
    params = initial(model, clips, noise=0.05)
    blocks = params["encoder"]["blocks"]
    tables = [blocks[i]["attn"]["rel_pos_h"].shape[0] for i in ("0", "1", "2", "4")]
    assert tables == list(rows)
    assert 4 * patches == size

    def loss(params):
        rngs = {"dropout": jax.random.key(1)}
        logits = model.apply({"params": params}, clips, train=True, rngs=rngs)
        return -jax.nn.log_softmax(logits)[0, 1]

    step = jax.jit(jax.value_and_grad(loss))
    value, grads = step(params)
    stepped = jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)
    assert float(step(stepped)[0]) < float(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert np.abs(grads["encoder"]["blocks"]["4"]["attn"]["rel_pos_w"]).max() > 0


def test_tables_are_interpolated_for_clips_of_another_size():
    small, large = np.random.default_rng(0).standard_normal((2, 1, 8, 96, 128, 3), np.float32)
    small = small[:, :4, :64, :64]
    encoder = create_encoder("mvit_v2_s", **{**TINY, **SHORT})
    params = initial(encoder, small)
    fitting = initial(encoder, large)
    moved = transfer({"encoder": fitting}, {"encoder": params})["encoder"]
    assert moved["blocks"]["0"]["attn"]["rel_pos_w"].shape[0] == 63
    assert params["blocks"]["0"]["attn"]["rel_pos_w"].shape[0] == 31
    run = jax.jit(encoder.apply)
    np.testing.assert_allclose(
        run({"params": params}, large), run({"params": moved}, large), rtol=1e-3, atol=1e-4
    )


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


def test_drop_path_drops_whole_branches_in_training_only():
    clips, mask = (jnp.repeat(x[:1], 32, 0) for x in clips_and_mask())
    model = tiny(**SHORT, drop_path=0.5)
    params = initial(model, clips, mask, noise=0.3)

    @jax.jit
    def trained(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, clips, mask, train=True, rngs=rngs)

    np.testing.assert_array_equal(trained(0), trained(0))
    assert np.abs(trained(0) - trained(1)).max() > 0
    assert np.abs(trained(0) - trained(0)[:1]).max() > 1e-3
    evaluated = np.asarray(jax.jit(model.apply)({"params": params}, clips, mask))
    np.testing.assert_allclose(evaluated, evaluated[:1].repeat(32, 0), atol=1e-4)


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


def test_bfloat16_computes_close_to_float32_with_float32_parameters():
    inputs = clips_and_mask()
    params = initial(tiny(**SHORT), *inputs)
    half = tiny(**SHORT, dtype="bfloat16")
    shapes = jax.eval_shape(half.init, jax.random.key(0), *inputs)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    ours = jax.jit(half.apply)({"params": params}, *inputs)
    assert ours.dtype == jnp.float32
    wanted = jax.jit(tiny(**SHORT).apply)({"params": params}, *inputs)
    assert 0 < float(jnp.abs(ours - wanted).max()) < 0.05 * float(jnp.abs(wanted).max())


def test_refuses():
    encoder = create_encoder("mvit_v2_s")
    for clip in ((16, 224, 226), (15, 224, 224)):
        sizes = "x".join(map(str, clip))
        with pytest.raises(
            ValueError, match=f"clip {sizes} is not a whole number of 2x4x4 patches"
        ):
            encoder.grid(clip)
        with pytest.raises(ValueError, match=f"clip {sizes} is not a whole number"):
            jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, *clip, 3)))
    with pytest.raises(ValueError, match=r"mask of \(2, 4, 4\) tokens; the clip has \(2, 2, 3\)"):
        initial(tiny(), clips_and_mask()[0], jnp.zeros((2, 2, 4, 4), bool))
    with pytest.raises(ValueError, match=r"tubelet=\(2, 16, 32\) is not one of \(2, 4, 4\), "):
        create_encoder("mvit_v2_s", tubelet=(2, 16, 32))
    with pytest.raises(ValueError, match=r"stages=\(1, 16\) do not rise between 0 and depth=16"):
        create_encoder("mvit_v2_s", stages=(1, 16))
    with pytest.raises(ValueError, match="widen_in='head' is not one of mlp, attention"):
        create_encoder("mvit_v2_s", widen_in="head")
    with pytest.raises(ValueError, match="width 97 is not a whole number of 2 heads"):
        create_encoder("mvit_v2_l", width=97)
