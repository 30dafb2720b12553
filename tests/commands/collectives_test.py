"""Collectives are counted as often as they run, with the sizes that were asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from maskfeat_jax import sharding
from maskfeat_jax.commands.collectives import Collective, collectives, operations
from tests.sharding_test import run

WHOLE = 16 * 4 * 4  # bytes of f32[16,4]


def repeated(function: Callable, times: int, x: Any) -> Any:
    return lax.scan(lambda x, _: (function(x), None), x, None, times)[0]


def permuted(x: Any) -> Any:
    return lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)])


def summed(x: Any) -> Any:
    return jnp.sin(lax.psum(x, "data"))


PROGRAMS: dict[str, Callable] = {
    "sum": summed,
    "gather": lambda x: lax.all_gather(x, "data", tiled=True),
    "scatter": lambda x: lax.psum_scatter(x, "data", tiled=True),
    "transpose": lambda x: lax.all_to_all(x, "data", 0, 0, tiled=True),
    "permute": permuted,
    "bytes": lambda x: permuted(x > 0),
    "scan": functools.partial(repeated, permuted, 5),
    "nested": functools.partial(repeated, functools.partial(repeated, summed, 5), 3),
    "until": lambda x: lax.while_loop(lambda x: x[0, 0] < 5, summed, x),
    "either": lambda x: lax.cond(x[0, 0] > 0, summed, lambda x: summed(x + 1), x),
    "none": jnp.sin,
}


def found_in_programs() -> dict[str, Any]:
    """Of each program, on f32[16,4] on each of eight devices; of the gather, also its shapes."""
    mesh = sharding.create_mesh()
    found: dict[str, Any] = {}
    for name, program in PROGRAMS.items():
        mapped = jax.shard_map(
            program, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
        )
        text = jax.jit(mapped).lower(jnp.zeros((8 * 16, 4))).compile().as_text()
        found[name] = {k: [x.count, x.bytes] for k, x in collectives(text).items()}
        if name == "gather":
            found["shapes"] = [(one.kind, one.shapes, one.source) for one in operations(text)]
    return found


def test_known_collectives_are_found():
    (found,) = run(8, "found_in_programs", module="tests.commands.collectives_test")
    ((kind, shapes, source),) = found.pop("shapes")
    assert (kind, shapes) == ("all-gather", [[128, 4]])
    assert "all_gather" in source
    assert found == {
        "sum": {"all-reduce": [1, WHOLE]},
        "gather": {"all-gather": [1, 8 * WHOLE]},
        "scatter": {"reduce-scatter": [1, WHOLE]},  # before the sum
        "transpose": {"all-to-all": [1, WHOLE]},
        "permute": {"collective-permute": [1, WHOLE]},
        "bytes": {"collective-permute": [1, WHOLE // 4]},
        "scan": {"collective-permute": [5, 5 * WHOLE]},
        "nested": {"all-reduce": [15, 15 * WHOLE]},
        "until": {"all-reduce": [1, WHOLE]},
        "either": {"all-reduce": [2, 2 * WHOLE]},
        "none": {},
    }


GPU = """
%wrapped (p: f32[8]) -> f32[1] {
  %p = f32[8]{0} parameter(0)
  ROOT %reduce-scatter.1 = f32[1]{0} reduce-scatter(%p), channel_id=3, dimensions={0}, to_apply=%add
}

ENTRY %main (a: bf16[2,3], b: pred[5]) -> bf16[16,3] {
  %a = bf16[2,3]{1,0} parameter(0)
  %b = pred[5]{0} parameter(1)
  %c = f32[8]{0} constant({...})
  %all-gather-start = ((bf16[2,3]{1,0}, pred[5]{0}), (bf16[16,3]{1,0}, pred[40]{0})) all-gather-start(%a, %b), channel_id=1
  %all-reduce-start = f32[8]{0} all-reduce-start(%c), channel_id=2, to_apply=%add
  %async-start = ((f32[8]{0}), f32[1]{0}) async-start(%c), calls=%wrapped
  %async-done = f32[1]{0} async-done(%async-start), calls=%wrapped
  %all-reduce-done = f32[8]{0} all-reduce-done(%all-reduce-start)
  %all-gather-done = (bf16[16,3]{1,0}, pred[40]{0}) all-gather-done(%all-gather-start)
  %permute-start = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%c), channel_id=4
  %permute-done = f32[8]{0} collective-permute-done(%permute-start)
  ROOT %got = bf16[16,3]{1,0} get-tuple-element(%all-gather-done), index=0
}
"""  # noqa: E501

TPU = """
%all-reduce-scatter.2 (input: f32[16,3]) -> f32[2,3] {
  %input = f32[16,3]{0,1:T(8,128)S(1)} parameter(0)
  %all-reduce.2 = f32[16,3]{0,1:T(8,128)} all-reduce(%input), channel_id=2, to_apply=%add
  ROOT %slice = f32[2,3]{0,1:T(8,128)} dynamic-slice(%all-reduce.2, %offset), dynamic_slice_sizes={2,3}
}

%begun (param.1: f32[4]) -> (f32[4], f32[32]) {
  %param.1 = f32[4]{0:T(128)} parameter(0)
  %all-gather.1 = f32[32]{0:T(128)} all-gather(%param.1), channel_id=1, dimensions={0}
  ROOT %custom-call.1 = (f32[4]{0}, f32[32]{0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%continued (param.2: f32[4]) -> f32[32] {
  %param.2 = f32[4]{0:T(128)} parameter(0)
  ROOT %all-gather.2 = f32[32]{0:T(128)} all-gather(%param.2), channel_id=1, dimensions={0}
}

%body (carry: (s32[], f32[16,3])) -> (s32[], f32[16,3]) {
  %carry = (s32[]{:T(128)}, f32[16,3]{1,0:T(8,128)}) parameter(0)
  %x = f32[16,3]{1,0:T(8,128)} get-tuple-element(%carry), index=1
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %part.2 = f32[32]{0:T(128)} fusion(%x), kind=kOutput, calls=%continued
  %shard = f32[2,3]{0,1:T(8,128)} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.2
  ROOT %next = (s32[]{:T(128)}, f32[16,3]{1,0:T(8,128)}) tuple(%i, %x)
}

%condition (carry.1: (s32[], f32[16,3])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  %carry.1 = (s32[]{:T(128)}, f32[16,3]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main.1_spmd (a: (s32[], f32[16,3]), b: f32[4]) -> (s32[], f32[16,3]) {
  %a = (s32[]{:T(128)}, f32[16,3]{1,0:T(8,128)}) parameter(0)
  %b = f32[4]{0:T(128)} parameter(1)
  %part.1 = (f32[4]{0}, f32[32]{0}) fusion(%b), kind=kCustom, calls=%begun
  ROOT %loop = (s32[]{:T(128)}, f32[16,3]{1,0:T(8,128)}) while(%a), condition=%condition, body=%body
}
"""  # noqa: E501


def test_asynchronous_collectives_of_gpus_count_once():
    assert collectives(GPU) == {
        "all-gather": Collective(1, 16 * 3 * 2 + 40),
        "all-reduce": Collective(1, 32),
        "collective-permute": Collective(1, 32),
        "reduce-scatter": Collective(1, 32),
    }


def test_fusions_and_loops_of_tpus():
    assert collectives(TPU) == {
        "all-gather": Collective(1, 128),  # begun before the loop, continued in it
        "reduce-scatter": Collective(7, 7 * 16 * 3 * 4),
    }
