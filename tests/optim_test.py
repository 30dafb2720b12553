from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskfeat_jax.models import create_model
from maskfeat_jax.models.layers import stack_blocks, unstack_blocks
from maskfeat_jax.optim import AdamW, Lars, Sgd, decayed, layer_scales, warmup_cosine
from tests.models.initial import shapes_of


def params_of(name, encoder="vit_b16", **fields):
    head = {"dim": 108} if name == "maskfeat" else {"num_classes": 10}
    clip = (1 if encoder.startswith("vit") else 16, 224, 224)
    return shapes_of(create_model(name, encoder=encoder, head=head, **fields), clip)


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
LENGTH = {"steps_per_epoch": 10, "epochs": 4, "batch_size": 256}


def follow(optimizer, params, grads_like, steps):
    """The parameters after some updates."""
    state = optimizer.tx.init(params)
    for step in range(steps):
        updates, state = optimizer.tx.update(grads_like(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def waves(params, step):
    """A gradient that is zero at first, then another at each step."""
    return jax.tree.map(
        lambda x: (step > 0) * jnp.sin(2.0 * step + jnp.arange(x.size)).reshape(x.shape), params
    )


@pytest.mark.parametrize(
    ("peak", "start", "end", "warmup", "epochs", "values"),
    [
        (2e-4, 1e-6, 1e-6, 30, 300, {0.03: 1.199e-6, 15: 1.005e-4, 123.25: 1.469566684e-4,
                                     150: 1.177779937e-4, 299: 1.006735354e-6}),
        (2e-3, 1e-8, 1e-6, 20, 100, {50: 1.382992091e-3}),
        (1e-4, 1e-6, 1e-6, 10, 300, {60.5: 9.277557908e-5, 150: 5.317987597e-5}),
        # mae_st
        (1.6e-3, 0.0, 0.0, 5, 100, {1: 3.2e-4, 50: 8.66063e-4, 99: 4.374e-7}),
    ],
)  # fmt: skip
def test_schedule_equals_the_originals(peak, start, end, warmup, epochs, values):
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
    with pytest.raises(
        ValueError, match=r"no_decay='relpos' matches no parameter; parameters: enc"
    ):
        decayed(SMALL, no_decay=("relpos",))


@pytest.mark.parametrize(
    ("encoder", "scan", "layer_decay", "outside", "first", "rtol"),
    [
        ("vit_b16", False, 0.65, 0.00369721, 0.00568801, 1e-5),  # PySlowFast
        ("mvit_v2_s", False, 0.75, 0.00751695, 0.0100226, 1e-5),
        ("mvit_v2_s", True, 0.75, 0.00751695, 0.0100226, 1e-5),
        ("mvit_v2_l", True, 0.875, 0.00144011, 0.00164584, 1e-5),
        ("vit_l16", True, 0.75, 7.525e-4, 1.003e-3, 1e-3),  # mae_st
        ("vit_h14", True, 0.8, 6.338e-4, 7.923e-4, 1e-3),
    ],
)
def test_layer_decay_equals_the_originals(encoder, scan, layer_decay, outside, first, rtol):
    params = params_of("classifier", encoder, scan=scan)
    scales = unstack_blocks(layer_scales(params, layer_decay))
    outer = scales.pop("encoder")
    blocks = outer.pop("blocks")
    assert set(jax.tree.leaves(scales)) == {1}  # norm and head
    np.testing.assert_allclose(jax.tree.leaves(outer), outside, rtol=rtol)
    np.testing.assert_allclose(layer_decay ** len(blocks), first, rtol=rtol)
    for i in range(len(blocks)):
        factors = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(blocks[str(i)])])
        np.testing.assert_allclose(factors, layer_decay ** (len(blocks) - i), rtol=1e-6)


@pytest.mark.parametrize("kind", [AdamW, Lars, Sgd])
def test_stacked_blocks_are_updated_as_unstacked_ones(kind):
    rule = kind(lr=1e-3, layer_decay=0.5, clip_norm=0.3, warmup_epochs=1.0, weight_decay=0.05)

    def grads_like(params, step):
        return jax.tree.map(lambda x: 0.1 * (step + 1) * x**2, params)

    def two_updates(params):
        return follow(rule.optimizer(params, **LENGTH), params, grads_like, 2)

    blocks = SMALL["encoder"]["blocks"]
    blocks = {i: jax.tree.map(lambda x, i=i: x + float(i), blocks[i]) for i in blocks}
    params = {**SMALL, "encoder": {**SMALL["encoder"], "blocks": blocks}}
    plain, stacked = two_updates(params), two_updates(stack_blocks(params, STACKED))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        stack_blocks(plain, STACKED),
        stacked,
    )


def test_learning_rates_grow_with_the_batch_and_adamw_is_that_of_optax():
    rule = AdamW(lr=1e-3, lr_batch=128, warmup_lr=1e-5)
    ours = rule.optimizer(SMALL, **{**LENGTH, "batch_size": 512})
    assert ours.schedule(jnp.int32(0)) == pytest.approx(4e-3)
    expected = optax.adamw(
        ours.schedule, weight_decay=0.05, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    )
    grads = jax.tree.map(lambda x: 0.3 * x, SMALL)
    a, _ = ours.tx.update(grads, ours.tx.init(SMALL), SMALL)
    b, _ = expected.update(grads, expected.init(SMALL), SMALL)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


@pytest.mark.parametrize(
    ("rule", "kernel", "bias", "zeros"),
    [
        (
            Lars(lr=1.0, weight_decay=0.1, momentum=0.8, warmup_epochs=0.8),
            [0.8367984, 0.906842405, 0.143139685, -0.752165001, -0.955932654, -0.280820234],
            [-0.096206534, 1.928894636, 2.180578973],
            [-3.928596231, -0.611620283, 3.267676532, 4.142686613],
        ),
        (
            Sgd(lr=0.1, weight_decay=0.1, momentum=0.8, warmup_epochs=0.8, layer_decay=0.5),
            [0.721276561, 0.904782496, 0.256435577, -0.627677029, -0.934706269, -0.382370876],
            [0.890379347, 0.679161539, -0.156474256],
            [-0.102943888, 0.132995934, 0.246659907, 0.133545899],
        ),
        (
            Sgd(
                lr=0.1,
                weight_decay=0.1,
                momentum=0.8,
                warmup_epochs=0.8,
                layer_decay=0.5,
                nesterov=True,
            ),
            [0.734163667, 0.903774046, 0.242458735, -0.641772019, -0.935960538, -0.369631255],
            [0.937431628, 0.704985105, -0.175621472],
            [-0.055189065, 0.150123769, 0.217413502, 0.084814264],
        ),
    ],
    ids=["lars", "sgd", "nesterov"],
)
def test_six_updates_equal_pytorch(rule, kernel, bias, zeros):
    """Golden numbers of `util/lars.py` and `util/lr_sched.py` of MAE and of `torch.optim.SGD`.

    float64, from a learning rate of 0 through warm-up and cosine, an epoch being 2.5 updates. The
    bias is not decayed; the kernel is block 0 of 1, the others the head.
    """
    i = jnp.arange(6.0)
    params = {
        "encoder": {"blocks": {"0": {"kernel": jnp.sin(1 + i).reshape(2, 3)}}},
        "projection": {"bias": jnp.cos(i[:3]), "kernel": jnp.zeros((2, 2))},
    }
    optimizer = rule.optimizer(params, steps_per_epoch=2.5, epochs=2.4, batch_size=512)
    after = follow(optimizer, params, waves, 6)
    expected = {
        "encoder": {"blocks": {"0": {"kernel": np.reshape(kernel, (2, 3))}}},
        "projection": {"bias": np.array(bias), "kernel": np.reshape(zeros, (2, 2))},
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after, expected)


def test_refuses():
    with pytest.raises(ValueError, match="warmup_epochs=4 is not below epochs=4"):
        AdamW(lr=1e-3, warmup_epochs=4).optimizer(SMALL, **LENGTH)
    for pattern, words in (
        ("relpos", "frozen='relpos' matches no parameter; parameters: enc"),
        ("", "frozen=.* leaves no trainable parameter"),
    ):
        with pytest.raises(ValueError, match=words):
            Sgd(lr=1e-3).optimizer(SMALL, **LENGTH, frozen=(pattern,))
    with pytest.raises(ValueError, match="layer_decay needs an encoder with blocks"):
        layer_scales({"projection": SMALL["projection"]}, 0.5)
    with pytest.raises(ValueError, match="no_decay='bias' is not a list"):
        Sgd(lr=1e-3, no_decay="bias").optimizer(SMALL, **LENGTH)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (AdamW, {"lr": 0.0}, "lr=0.0 is not positive"),
        (AdamW, {"lr_batch": 0}, "lr_batch=0 is not positive"),
        (AdamW, {"warmup_epochs": -1.0}, "warmup_epochs=-1.0 is not 0 or more"),
        (AdamW, {"layer_decay": 0.0}, "layer_decay=0.0 is not above 0"),
        (AdamW, {"ema_decay": 1.0}, "ema_decay=1.0 is not at least 0, below 1"),
        (AdamW, {"b2": 1.0}, "b2=1.0 is not"),
        (Lars, {"trust": 0.0}, "trust=0.0 is not positive"),
        (Sgd, {"momentum": 1.0}, "momentum=1.0 is not"),
        (Sgd, {"momentum": 0.0, "nesterov": True}, "momentum=0.0 is not positive, as nesterov"),
    ],
)
def test_refuses_numbers_out_of_range(kind, settings, words):
    with pytest.raises(ValueError, match=words):
        kind(**{"lr": 1e-3, **settings})
