"""Costs of compiled programs count every iteration of a loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from maskfeat_jax.commands.costs import costs

SIZE, STEPS = 64, 12
PRODUCT = 2 * SIZE**3


def repeated(x, weights, unroll=1):
    return lax.scan(lambda x, w: (x @ w, None), x, weights, unroll=unroll)[0]


def twice(x, weights):
    return lax.scan(lambda x, _: (repeated(x, weights), None), x, None, length=2)[0]


def of(function):
    shapes = (SIZE, SIZE), (STEPS, SIZE, SIZE)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return costs(jax.jit(function).lower(*arguments).compile().as_text())


def test_an_operation_counts_as_often_as_it_runs():
    assert of(lambda x, weights: x @ weights[0]).flops == pytest.approx(PRODUCT, rel=0.01)
    assert of(repeated).flops == pytest.approx(STEPS * PRODUCT, rel=0.01)
    assert of(twice).flops == pytest.approx(2 * STEPS * PRODUCT, rel=0.01)


def test_a_loop_moves_about_as_much_as_without_one():
    unrolled = of(lambda x, weights: repeated(x, weights, unroll=STEPS))
    assert unrolled.flops == pytest.approx(of(repeated).flops, rel=0.01)
    assert unrolled.bytes == pytest.approx(of(repeated).bytes, rel=0.5)
    # Of each product the operands and the result.
    assert of(repeated).bytes >= STEPS * 3 * 4 * SIZE**2
