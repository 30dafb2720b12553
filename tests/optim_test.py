from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskfeat_jax.models import create_model
from maskfeat_jax.models.layers import stack_blocks
from maskfeat_jax.optim import adamw, decayed, layer_scales, warmup_cosine


def params_of(name, encoder="vit_b16", **fields):
    head = {"dim": 108} if name == "maskfeat" else {"num_classes": 10}
    model = create_model(name, encoder=encoder, head=head, **fields)
    clip = (1 if encoder.startswith("vit") else 16, 224, 224)
    inputs = [jax.ShapeDtypeStruct((1, *clip, 3), jnp.float32)]
    if name == "maskfeat":
        inputs.append(jax.ShapeDtypeStruct((1, *model.encoder.grid(clip)), bool))
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def tensors(params):
    """Each parameter, counted once per block where blocks are stacked."""

    def count(path, _):
        names = [key.key for key in path if "-" in key.key]
        first, last = map(int, names[0].split("-")) if names else (0, 0)
        return last - first + 1

    return jax.tree_util.tree_map_with_path(count, params)


SMALL = {
    "encoder": {
        "cls_token": jnp.ones((1, 1, 4)),
        "blocks": {
            str(i): {"fc": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}} for i in range(3)
        },
    },
    "projection": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)},
}
STACKED = {
    **SMALL,
    "encoder": {
        "cls_token": jnp.ones((1, 1, 4)),
        "blocks": {
            "0": SMALL["encoder"]["blocks"]["0"],
            "1-2": {"fc": {"kernel": jnp.ones((2, 4, 4)), "bias": jnp.ones((2, 4))}},
        },
    },
}
SETTINGS = {"steps_per_epoch": 10, "epochs": 4, "batch_size": 256, "lr": 1e-3}


@pytest.mark.parametrize(
    ("peak", "start", "end", "warmup", "epochs", "values"),
    [
        (2e-4, 1e-6, 1e-6, 30, 300, {0.03: 1.199e-6, 15: 1.005e-4, 123.25: 1.469566684e-4,
                                     150: 1.177779937e-4, 299: 1.006735354e-6}),
        (2e-3, 1e-8, 1e-6, 20, 100, {50: 1.382992091e-3}),
        (1e-4, 1e-6, 1e-6, 10, 300, {60.5: 9.277557908e-5, 150: 5.317987597e-5}),
    ],
)  # fmt: skip
def test_schedule_equals_pyslowfast(peak, start, end, warmup, epochs, values):
    per_epoch = 100
    schedule = warmup_cosine(
        peak, start, end, warmup_steps=warmup * per_epoch, total_steps=epochs * per_epoch
    )
    for epoch, lr in values.items():
        np.testing.assert_allclose(schedule(jnp.int32(round(epoch * per_epoch))), lr, rtol=2e-4)
    assert schedule(jnp.int32(0)) == pytest.approx(start)
    assert schedule(jnp.int32(2 * epochs * per_epoch)) == pytest.approx(end)


MVIT = {"tubelet": (2, 16, 16), "scan": True}


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        (("maskfeat", "vit_b16", {}), (53, 100)),
        (("classifier", "vit_b16", {}), (52, 100)),
        (("maskfeat", "mvit_v2_s", {"tubelet": (2, 16, 16)}), (167, 231)),
        (("maskfeat", "mvit_v2_s", MVIT), (167, 231)),
        (("classifier", "mvit_v2_s", {"scan": True}), (166, 231)),
        (("maskfeat", "mvit_v2_l", MVIT), (487, 679)),
        (("classifier", "mvit_v2_l", {"scan": True}), (486, 679)),
    ],
    ids=str,
)
def test_what_is_decayed_equals_pyslowfast(model, counts):
    """Tensors decayed and not, in pre-training and fine-tuning."""
    name, encoder, fields = model
    params = params_of(name, encoder, **fields)
    rules, each = jax.tree.leaves(decayed(params)), jax.tree.leaves(tensors(params))
    yes = sum(n for rule, n in zip(rules, each, strict=True) if rule)
    assert (yes, sum(each) - yes) == counts


def test_no_decay_exempts_what_it_names():
    rules = decayed(params_of("maskfeat"), no_decay=("mask_token$", "pos_embed"))
    assert rules["encoder"]["cls_token"]
    assert not rules["encoder"]["mask_token"]
    assert not rules["encoder"]["pos_embed"]
    stacked = decayed(STACKED)["encoder"]["blocks"]["1-2"]["fc"]
    assert stacked == {"kernel": True, "bias": False}
    with pytest.raises(ValueError, match=r"no_decay='relpos' matches no parameter; there are: enc"):
        decayed(SMALL, no_decay=("relpos",))


def test_layer_decay_equals_pyslowfast():
    scales = layer_scales(params_of("classifier"), 0.65)
    encoder = scales["encoder"]
    assert encoder["pos_embed"] == pytest.approx(0.00369721, rel=1e-5)
    assert encoder["patch_embed"]["kernel"] == pytest.approx(0.00369721, rel=1e-5)
    assert encoder["blocks"]["0"]["attn"]["qkv"]["bias"] == pytest.approx(0.00568801, rel=1e-5)
    assert encoder["blocks"]["11"]["norm1"]["scale"] == pytest.approx(0.65)
    assert scales["projection"]["kernel"] == scales["norm"]["bias"] == 1
    with pytest.raises(ValueError, match="layer_decay needs an encoder of blocks"):
        layer_scales({"projection": SMALL["projection"]}, 0.5)


@pytest.mark.parametrize("scan", [False, True])
def test_layer_decay_of_mvit_equals_pyslowfast(scan):
    scales = layer_scales(params_of("classifier", "mvit_v2_s", scan=scan), 0.75)["encoder"]
    blocks = scales["blocks"]
    assert scales["cls_token"] == pytest.approx(0.00751695, rel=1e-5)
    assert blocks["0"]["proj"]["bias"] == pytest.approx(0.0100226, rel=1e-5)
    assert blocks["15"]["attn"]["pool_q"]["kernel"] == pytest.approx(0.75)
    assert blocks["15"]["attn"]["rel_pos_t"] == pytest.approx(0.75)
    if scan:
        middle = blocks["4-12"]["attn"]["rel_pos_h"]
        assert middle.shape == (9, 1, 1)
        middle = middle.ravel()
    else:
        middle = [blocks[str(i)]["attn"]["rel_pos_h"] for i in range(4, 13)]
    np.testing.assert_allclose(middle, [0.75 ** (16 - i) for i in range(4, 13)], rtol=1e-6)


def test_layer_decay_of_mvit_l_equals_pyslowfast():
    scales = layer_scales(params_of("classifier", "mvit_v2_l", scan=True), 0.875)["encoder"]
    assert scales["patch_embed"]["bias"] == pytest.approx(0.00144011, rel=1e-5)
    assert scales["blocks"]["0"]["norm1"]["scale"] == pytest.approx(0.00164584, rel=1e-5)
    last = scales["blocks"]["45-47"]["mlp"]["fc2"]["kernel"]
    np.testing.assert_allclose(last.ravel(), [0.875**3, 0.875**2, 0.875], rtol=1e-6)


def test_stacked_blocks_are_updated_as_unstacked_ones():
    settings = {**SETTINGS, "layer_decay": 0.5, "clip_norm": 0.3, "warmup_epochs": 1.0}

    def two_updates(params):
        tx = adamw(params, **settings).tx
        state = tx.init(params)
        for i in range(2):
            grads = jax.tree.map(lambda x, i=i: 0.1 * (i + 1) * x, params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    plain, stacked = two_updates(SMALL), two_updates(STACKED)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        stack_blocks(plain, STACKED),
        stacked,
    )


def test_learning_rates_grow_with_the_batch_and_adamw_is_that_of_optax():
    ours = adamw(SMALL, **{**SETTINGS, "batch_size": 512, "lr_batch": 128, "warmup_lr": 1e-5})
    assert ours.schedule(jnp.int32(0)) == pytest.approx(4e-3)
    wanted = optax.adamw(
        ours.schedule, weight_decay=0.05, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    )
    grads = jax.tree.map(lambda x: 0.3 * x, SMALL)
    a, _ = ours.tx.update(grads, ours.tx.init(SMALL), SMALL)
    b, _ = wanted.update(grads, wanted.init(SMALL), SMALL)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_refuses():
    with pytest.raises(ValueError, match="warmup_epochs=4 is not below epochs=4"):
        adamw(SMALL, **SETTINGS, warmup_epochs=4)
    with pytest.raises(ValueError, match="layer_decay=0"):
        adamw(SMALL, **SETTINGS, layer_decay=0.0)
