from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskfeat_jax.models import create_model
from maskfeat_jax.models.layers import stack_blocks
from maskfeat_jax.optim import adamw, decayed, layer_scales, warmup_cosine


def params_of(name, **head):
    model = create_model(name, encoder="vit_b16", head=head)
    inputs = [jnp.zeros((1, 1, 224, 224, 3))]
    if name == "maskfeat":
        inputs.append(jnp.zeros((1, 1, 14, 14), bool))
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


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


def test_what_is_decayed_equals_pyslowfast():
    """Tensors decayed and not, of ViT-B in pre-training and fine-tuning."""
    for params, counts in (
        (params_of("maskfeat", dim=108), (53, 100)),
        (params_of("classifier", num_classes=10), (52, 100)),
    ):
        rules = jax.tree.leaves(decayed(params))
        assert (sum(rules), len(rules) - sum(rules)) == counts
    rules = decayed(params_of("maskfeat", dim=108), no_decay=("mask_token$", "pos_embed"))
    assert rules["encoder"]["cls_token"]
    assert not rules["encoder"]["mask_token"]
    assert not rules["encoder"]["pos_embed"]
    stacked = decayed(STACKED)["encoder"]["blocks"]["1-2"]["fc"]
    assert stacked == {"kernel": True, "bias": False}
    with pytest.raises(ValueError, match=r"no_decay='relpos' matches no parameter; there are: enc"):
        decayed(SMALL, no_decay=("relpos",))


def test_layer_decay_equals_pyslowfast():
    scales = layer_scales(params_of("classifier", num_classes=10), 0.65)
    encoder = scales["encoder"]
    assert encoder["pos_embed"] == pytest.approx(0.00369721, rel=1e-5)
    assert encoder["patch_embed"]["kernel"] == pytest.approx(0.00369721, rel=1e-5)
    assert encoder["blocks"]["0"]["attn"]["qkv"]["bias"] == pytest.approx(0.00568801, rel=1e-5)
    assert encoder["blocks"]["11"]["norm1"]["scale"] == pytest.approx(0.65)
    assert scales["projection"]["kernel"] == scales["norm"]["bias"] == 1
    with pytest.raises(ValueError, match="layer_decay needs an encoder of blocks"):
        layer_scales({"projection": SMALL["projection"]}, 0.5)


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
