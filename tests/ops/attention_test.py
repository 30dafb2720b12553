"""Every kernel against written-out weights, forward and gradient."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.ops import attention as attention_module
from maskfeat_jax.ops.attention import KERNELS, TABLE, attention, chunked, cudnn, short, splash, xla
from maskfeat_jax.ops.relative_position import relative_attention

SHAPES = {  # queries, keys, heads, channels of queries and keys, channels of values
    "class token": (131, 131, 2, 32, 32),
    "few": (33, 33, 2, 16, 16),
    "one query": (1, 130, 2, 16, 16),
    "pooled keys": (300, 131, 1, 22, 16),
    "whole blocks": (128, 256, 1, 8, 8),
    "many keys": (70, 2100, 1, 8, 8),
}
# As each kernel runs on a CPU. cuDNN's own program does not: this is how its arguments are padded.
FORMS = {
    "chunked": chunked.attend,
    "chunked together": lambda *x: heads_first(functools.partial(chunked.in_chunks, True), *x),
    "cudnn": functools.partial(cudnn.attend, implementation="xla"),
    "short": functools.partial(short.attend, interpret=True),
    "splash": functools.partial(splash.attend, interpret=True),
}


def heads_first(function, *x):
    return jnp.moveaxis(function(*(jnp.moveaxis(x, 2, 1) for x in x)), 1, 2)


def arguments(queries, keys, heads, d, e, dtype=np.float32):
    """Queries, keys, values and the gradient of the result, in numbers that bfloat16 has."""
    rng = np.random.default_rng(0)
    shapes = (queries, heads, d), (keys, heads, d), (keys, heads, e), (queries, heads, e)
    arrays = (rng.standard_normal((2, *shape)) for shape in shapes)
    return [jnp.asarray(x, jnp.bfloat16).astype(dtype) for x in arrays]


def with_gradients(function, q, k, v, g):
    """The result and the gradients."""

    @jax.jit
    def run(q, k, v, g):
        y, back = jax.vjp(function, q, k, v)
        return y, *back(g.astype(y.dtype))

    return run(q, k, v, g)


def compare(found, expected, tolerance):
    """Of arrays of any scale; the tolerance is relative to the largest value."""
    for a, b in zip(found, expected, strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize(
    ("shape", "dtype", "tolerance"),
    [
        *((shape, "float32", 1e-5) for shape in SHAPES),
        *((shape, "bfloat16", 0.02) for shape in ("class token", "pooled keys")),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_kernels_equal_written_out_weights(form, shape, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(chunked, "LARGE", 0)
    monkeypatch.setattr(chunked, "CHUNK", 1)  # the smallest chunks there are
    monkeypatch.setattr(chunked, "WIDE_CHUNK", 1)
    expected = with_gradients(xla.attend, *arguments(*SHAPES[shape]))
    low = arguments(*SHAPES[shape], dtype)
    found = with_gradients(FORMS[form], *low)
    assert [x.dtype for x in found[1:]] == [dtype] * 3
    compare(found, expected, tolerance)


@pytest.mark.parametrize("form", FORMS)
def test_relative_positions_with_every_kernel(form, monkeypatch):
    class Kernel:
        attend = staticmethod(FORMS[form])
        refusal = staticmethod(xla.refusal)

    monkeypatch.setitem(TABLE, "here", Kernel)
    q_grid, k_grid = (2, 6, 5), (2, 3, 3)
    q, k, v, g = arguments(1 + 60, 1 + 18, 2, 12, 12)
    lengths = (3, 11, 9)
    rng = np.random.default_rng(1)
    tables = tuple(jnp.asarray(rng.standard_normal((n, 12)), jnp.float32) for n in lengths)

    def of(kernel):
        return with_gradients(
            lambda q, k, x: relative_attention(q, k, *x, q_grid, k_grid, kernel=kernel),
            q,
            k,
            (v, tables),
            g,
        )

    compare(jax.tree.leaves(of("here")), jax.tree.leaves(of("xla")), 1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_large_logits_stay_finite(form):
    q, k, v, g = arguments(*SHAPES["class token"])
    for x in with_gradients(FORMS[form], 1e3 * q, 1e3 * k, v, g):
        assert np.isfinite(np.asarray(x)).all()


def on(platform, kind=""):
    """A mesh of one device that is not there."""
    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
    axes = (jax.sharding.AxisType.Auto,) * 3
    mesh = jax.sharding.AbstractMesh(
        (1, 1, 1), ("data", "parameters", "tensor"), axes, abstract_device=device
    )
    return jax.sharding.use_abstract_mesh(mesh)


def shapes(queries, keys, dtype, d=64):
    return [jax.ShapeDtypeStruct((2, n, 8, d), dtype) for n in (queries, keys, keys)]


@pytest.mark.parametrize(
    ("platform", "queries", "keys", "dtype", "d", "expected"),
    [
        ("cpu", 197, 197, "float32", 64, "xla"),
        ("cpu", 1569, 1569, "bfloat16", 64, "chunked"),
        ("gpu", 50, 50, "bfloat16", 64, "cudnn"),
        ("gpu", 1, 1568, "bfloat16", 64, "cudnn"),
        ("gpu", 1569, 1569, "bfloat16", 132, "chunked"),
        ("gpu", 393, 393, "float32", 64, "xla"),
        ("gpu", 785, 785, "float32", 64, "chunked"),
        ("tpu", 197, 197, "bfloat16", 64, "short"),
        ("tpu", 1, 1568, "float32", 64, "short"),
        ("tpu", 785, 785, "bfloat16", 64, "splash"),
        ("tpu", 6273, 1569, "float32", 132, "splash"),
        ("tpu", 1569, 1569, "float64", 64, "chunked"),
    ],
)
def test_auto_suits_the_device_and_the_tokens(platform, queries, keys, dtype, d, expected):
    with jax.enable_x64(True), on(platform):
        assert attention_module.choose(*shapes(queries, keys, dtype, d)) == expected


def test_auto_without_a_mesh_is_for_the_default_device():
    assert attention_module.choose(*shapes(1569, 1569, "bfloat16")) == "chunked"


@pytest.mark.parametrize(
    ("kernel", "platform", "dtype", "d", "message"),
    [
        ("cudnn", "cpu", "bfloat16", 64, "'cudnn' needs an NVIDIA GPU, not kind; use 'auto'"),
        ("cudnn", "tpu", "bfloat16", 64, "'cudnn' needs an NVIDIA GPU, not kind"),
        ("cudnn", "gpu", "float32", 64, "'cudnn' needs dtype 'bfloat16', not 'float32'"),
        ("cudnn", "gpu", "bfloat16", 132, "'cudnn' has heads of at most 128 channels on kind, not"),
        ("splash", "gpu", "bfloat16", 64, "'splash' needs a TPU, not kind; use 'auto'"),
        ("splash", "tpu", "float64", 64, "'splash' needs dtype 'float32' or 'bfloat16', not"),
        ("short", "gpu", "bfloat16", 64, "'short' needs a TPU, not kind; use 'auto'"),
        ("short", "tpu", "float64", 64, "'short' needs dtype 'float32' or 'bfloat16', not"),
    ],
)
def test_kernels_that_cannot_run_say_why(kernel, platform, dtype, d, message):
    run = functools.partial(attention, kernel=kernel)
    with jax.enable_x64(True), on(platform, "kind"), pytest.raises(ValueError, match=message):
        jax.eval_shape(run, *shapes(300, 300, dtype, d))


def test_the_kernel_for_few_tokens_has_a_limit():
    run = functools.partial(attention, kernel="short")
    message = "'short' is for fewer tokens than 785 queries and 785 keys; use 'auto'"
    with on("tpu"), pytest.raises(ValueError, match=message):
        jax.eval_shape(run, *shapes(785, 785, "bfloat16"))


@pytest.mark.parametrize(
    ("capability", "d", "expected"),
    [
        ("7.5", 64, "needs a GPU of compute capability 8.0 or more; kind has 7.5"),
        ("8.0", 128, None),
        ("8.0", 132, "has heads of at most 128 channels on kind, not 132"),
        ("9.0", 132, None),
        ("12.0", 132, None),
        ("gfx942", 64, "needs an NVIDIA GPU, not kind"),
    ],
)
def test_cudnn_depends_on_the_gpu(capability, d, expected, monkeypatch):
    class Gpu:
        platform, device_kind, compute_capability = "gpu", "kind", capability

    monkeypatch.setattr(jax, "devices", lambda: [Gpu])
    q, _, v = shapes(9, 9, "bfloat16", d)
    assert cudnn.refusal(Gpu, q, v) == expected


def test_many_tokens_are_computed_in_chunks(monkeypatch):
    q, k, v, _ = arguments(*SHAPES["class token"])
    assert KERNELS == ("auto", "xla", "chunked", "cudnn", "short", "splash")
    expected = attention(q, k, v)
    monkeypatch.setattr(chunked, "LARGE", 10)
    monkeypatch.setattr(chunked, "CHUNK", 1)
    np.testing.assert_allclose(attention(q, k, v), expected, atol=1e-5)
    assert "while" in jax.jit(attention).lower(q, k, v).as_text()
