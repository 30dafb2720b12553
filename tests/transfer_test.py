from __future__ import annotations

import jax
import numpy as np
import pytest

from maskfeat_jax.models.layers import unstack_blocks
from maskfeat_jax.transfer import TransferError, transfer


def params(seed, classes=3, width=4, mask_token=False):
    rng = np.random.default_rng(seed)

    def array(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    encoder = {
        "pos_embed": array(1, 5, width),
        "blocks": {str(i): {"fc": {"kernel": array(width, width)}} for i in range(12)},
    }
    if mask_token:
        encoder["mask_token"] = array(1, 1, width)
    return {
        "encoder": encoder,
        "norm": {"scale": array(width)},
        "projection": array(width, classes),
    }


def stacked(params):
    kernels = [params["encoder"]["blocks"][str(i)]["fc"]["kernel"] for i in range(12)]
    blocks = {"0-1": {"fc": {"kernel": np.stack(kernels[:2])}}, "2": {"fc": {"kernel": kernels[2]}}}
    blocks["3-11"] = {"fc": {"kernel": np.stack(kernels[3:])}}
    return {**params, "encoder": {**params["encoder"], "blocks": blocks}}


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("source_is_stacked", [False, True])
@pytest.mark.parametrize("fresh_is_stacked", [False, True])
def test_only_the_named_parts_are_replaced(source_is_stacked, fresh_is_stacked):
    fresh, source = params(0), params(1, classes=7, mask_token=True)
    wanted = {**fresh, "encoder": {k: source["encoder"][k] for k in fresh["encoder"]}}
    result = transfer(
        stacked(fresh) if fresh_is_stacked else fresh,
        stacked(source) if source_is_stacked else source,
    )
    assert_equal(unstack_blocks(result), wanted)
    assert_equal(result, stacked(wanted) if fresh_is_stacked else wanted)


def test_everything_can_be_replaced():
    assert_equal(transfer(params(0), params(1), parts=("encoder", "norm", "projection")), params(1))


def test_what_does_not_fit_is_listed():
    source = params(1, width=6)
    del source["encoder"]["blocks"]["11"]
    with pytest.raises(TransferError, match="13 parameters do not fit") as error:
        transfer(params(0), source)
    assert "encoder/blocks/0/fc/kernel: (6, 6), expected (4, 4)" in str(error.value)
    with pytest.raises(TransferError, match=r"projection: \(4, 7\), expected \(4, 3\)"):
        transfer(params(0), params(1, classes=7), parts=("projection",))
