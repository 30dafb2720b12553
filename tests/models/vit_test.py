from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.models import MODELS, VARIANTS, create_encoder, create_model
from maskfeat_jax.models.layers import stack_blocks, unstack_blocks
from maskfeat_jax.models.positions import POSITIONS
from tests.models.initial import initial

TINY = {"width": 24, "depth": 3, "heads": 3, "tubelet": (2, 8, 4)}


def tiny(**fields):
    return create_model("maskfeat", encoder="vit_ti16", head={"dim": 5}, **{**TINY, **fields})


def clips_and_mask(seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    clips = jax.random.normal(keys[0], (3, 4, 16, 8, 3))
    return clips, jax.random.bernoulli(keys[1], 0.5, (3, 2, 2, 2))


@pytest.mark.parametrize("name", sorted(name for name in VARIANTS if name.startswith("vit_")))
def test_variants_build_for_images_and_clips(name):
    for tubelet, frames in (((1, 16, 16), 1), ((2, 16, 16), 4)):
        encoder = create_encoder(name, tubelet=tubelet, scan=True)
        clips = jax.ShapeDtypeStruct((2, frames, 32, 48, 3), jnp.float32)
        out = jax.eval_shape(encoder.init_with_output, jax.random.key(0), clips)[0]
        assert out.shape == (2, 1 + frames // tubelet[0] * 2 * 3, encoder.width)
        assert encoder.grid((frames, 32, 48)) == (frames // tubelet[0], 2, 3)


@pytest.mark.parametrize("positions", POSITIONS)
def test_without_class_token_the_grid_is_as_it_was(positions):
    clips, mask = clips_and_mask()
    fields = {**TINY, "width": 48, "depth": 0, "positions": positions}
    usual = create_encoder("vit_ti16", **fields)
    params = initial(usual, clips, mask)
    wanted = np.asarray(usual.apply({"params": params}, clips, mask))[:, 1:]
    encoder = create_encoder("vit_ti16", class_token=False, **fields)
    assert (usual.class_tokens, encoder.class_tokens) == (1, 0)
    left = {k: v for k, v in params.items() if k not in ("cls_token", "pos_embed_class")}
    if "pos_embed" in left:
        left["pos_embed"] = left["pos_embed"][:, 1:]
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), clips, mask)["params"]
    assert jax.tree.map(jnp.shape, left) == jax.tree.map(jnp.shape, shapes)
    np.testing.assert_array_equal(encoder.apply({"params": left}, clips, mask), wanted)


def test_models_have_names():
    assert {"classifier", "mae", "maskfeat"} < set(MODELS)
    with pytest.raises(KeyError, match="vit_x"):
        create_encoder("vit_x")
    with pytest.raises(TypeError, match="widht"):
        create_encoder("vit_b16", widht=3)
    with pytest.raises(ValueError, match="width 20 is not a whole number of 3 heads"):
        create_encoder("vit_ti16", width=20)
    with pytest.raises(ValueError, match="drop_path=1.5"):
        tiny(drop_path=1.5)
    with pytest.raises(ValueError, match="attention='flash' is not one of xla"):
        tiny(attention="flash")


@pytest.mark.parametrize("fields", [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}])
def test_scan_and_remat_change_nothing(fields):
    inputs = clips_and_mask()
    plain, other = tiny(), tiny(**fields)
    params = initial(plain, *inputs, noise=1)
    params_of = {False: params, True: stack_blocks(params, initial(tiny(scan=True), *inputs))}

    def loss(model):
        return jax.jit(
            jax.value_and_grad(lambda p: jnp.sum(jnp.sin(model.apply({"params": p}, *inputs))))
        )

    wanted = loss(plain)(params)
    value, grads = loss(other)(params_of["scan" in fields])
    np.testing.assert_allclose(value, wanted[0], rtol=1e-5)
    grads = unstack_blocks(grads)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted[1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), grads, wanted[1])
    assert jax.tree.structure(initial(other, *inputs)) == jax.tree.structure(
        params_of["scan" in fields]
    )


def test_stacking_is_undone():
    params = initial(tiny(), *clips_and_mask())
    stacked = stack_blocks(params, initial(tiny(scan=True), *clips_and_mask()))
    assert set(stacked["encoder"]["blocks"]) == {"0-2"}
    back = unstack_blocks(stacked)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize("class_token", [True, False])
def test_masked_pixels_have_no_influence_and_visible_ones_have(class_token):
    clips, mask = clips_and_mask()
    model = tiny(class_token=class_token)
    params = initial(model, clips, mask)
    squares = jax.grad(lambda x: jnp.sum(model.apply({"params": params}, x, mask) ** 2))
    gradient = jax.jit(squares)(clips)
    by_token = jnp.abs(gradient).reshape(3, 2, 2, 2, 8, 2, 4, 3).max((2, 4, 6, 7))
    assert not np.asarray(by_token)[np.asarray(mask)].any()
    assert np.asarray(by_token)[~np.asarray(mask)].all()


def test_masked_tokens_keep_their_positions():
    clips, _ = clips_and_mask()
    mask = jnp.ones((3, 2, 2, 2), bool)
    model = tiny()
    params = initial(model, clips, mask)
    predicted = np.asarray(jax.jit(model.apply)({"params": params}, clips, mask)).reshape(3, 8, 5)
    np.testing.assert_allclose(predicted[0], predicted[1], atol=1e-6)  # nothing of the clip is seen
    assert np.abs(predicted[0, 0] - predicted[0, 1]).max() > 1e-3


def test_drop_path_drops_whole_branches_in_training_only():
    clips, mask = clips_and_mask()
    clips = jnp.repeat(clips[:1], 64, 0)
    mask = jnp.repeat(mask[:1], 64, 0)
    model = tiny(drop_path=0.5, scan=True)
    params = initial(model, clips, mask, noise=0.3)

    @jax.jit
    def run(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, clips, mask, train=True, rngs=rngs)

    np.testing.assert_array_equal(run(0), run(0))
    assert np.abs(run(0) - run(1)).max() > 0
    # Rates 0, 1/4, 1/2 for two branches each: 2 ** 4 outcomes, some of them seen more than once.
    outcomes = {tuple(np.round(row.ravel(), 4)) for row in np.asarray(run(0))}
    assert 4 < len(outcomes) <= 16
    evaluated = np.asarray(jax.jit(model.apply)({"params": params}, clips, mask))
    np.testing.assert_allclose(evaluated, evaluated[:1].repeat(64, 0), atol=1e-5)


def test_initialisation():
    model = create_model("classifier", encoder="vit_s16", head={"num_classes": 7}, depth=2)
    params = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 1, 32, 32, 3)))["params"]
    block = params["encoder"]["blocks"]["1"]
    assert abs(float(block["attn"]["qkv"]["kernel"].std()) - 0.02) < 1e-3
    assert not np.asarray(block["mlp"]["fc1"]["bias"]).any()
    assert (np.asarray(block["norm1"]["scale"]) == 1).all()
    patch = params["encoder"]["patch_embed"]
    assert patch["kernel"].shape == (1, 16, 16, 3, 384)
    assert 0.9 * 768**-0.5 < float(jnp.abs(patch["bias"]).max()) <= 768**-0.5
    assert float(params["projection"]["kernel"].std()) < 4e-5
    assert params["encoder"]["pos_embed"].shape == (1, 5, 384)
    assert "mask_token" not in params["encoder"]


def test_bfloat16_computes_close_to_float32_with_float32_parameters():
    inputs = clips_and_mask()
    params = jax.jit(tiny().init)(jax.random.key(1), *inputs)["params"]
    half = tiny(dtype="bfloat16")
    shapes = jax.eval_shape(half.init, jax.random.key(1), *inputs)["params"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    ours = jax.jit(half.apply)({"params": params}, *inputs)
    assert ours.dtype == jnp.float32
    wanted = jax.jit(tiny().apply)({"params": params}, *inputs)
    assert 0 < float(jnp.abs(ours - wanted).max()) < 0.02 * float(jnp.abs(wanted).max()) + 0.01
