"""What the backward pass of a recipe's step stores, as its function is traced for a device.

    python -m bench.residuals maskfeat_vit_in1k:b16 --rows 32 --target v5e:1x1

Residuals of equal shape and dtype are one row; parameters, which are stored anyway, are left out.
A target that is not of this machine needs its compiler (`make aot`).
"""

from __future__ import annotations

import argparse
import collections
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax

from maskfeat_jax import recipes, steps
from maskfeat_jax.commands.estimate import batch_shapes
from maskfeat_jax.commands.hardware import hardware
from maskfeat_jax.sharding import on_mesh
from maskfeat_jax.training.build import build_computation
from maskfeat_jax.training.experiment import abstract_state


def residuals(
    recipe: str, rows: int, target: str, changes: dict[str, Any]
) -> list[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of what the gradient of a step stores of its forward pass."""
    devices = hardware(target).devices if target else jax.devices()[:1]
    changes = {**changes, "run.batch_size": rows * len(devices)}
    config = recipes.override(recipes.load(recipe), changes).to_dict()
    mesh, of_batch, accumulate, task, optimizer, _ = build_computation(config, devices)
    state, stored = abstract_state(task, optimizer, mesh), []
    gradient = steps.accumulated_gradient

    def listed(loss_of: Callable[..., Any], params: Any, key: Any, inputs: Any, slices: int) -> Any:
        back = jax.vjp(lambda params: loss_of(params, key, *inputs)[0], params)[1]
        of_params = {id(x) for x in jax.tree.leaves(params)}
        stored.extend(
            jax.ShapeDtypeStruct(x.shape, x.dtype)
            for x in jax.tree.leaves(back)
            if id(x) not in of_params
        )
        return gradient(loss_of, params, key, inputs, slices)

    with mock.patch.object(steps, "accumulated_gradient", listed):
        step = on_mesh(
            mesh, lambda *x: task.train_step(*x, optimizer=optimizer, accumulate=accumulate)
        )
        jax.eval_shape(step, state, batch_shapes(task, mesh, of_batch))
    return stored


def main() -> None:
    """Prints a table, the largest first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--rows", type=int, default=32, help="examples of a device")
    parser.add_argument("--target", default="", help="as of `main.py estimate`; default: this CPU")
    parser.add_argument("--scan", action="store_true", help="blocks stacked, else one by one")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--least", type=float, default=1.0, help="MiB of a row of the table")
    args = parser.parse_args()
    changes = {"model.scan": args.scan, "model.dtype": args.dtype}
    found = residuals(args.recipe, args.rows, args.target, changes)
    counts = collections.Counter((x.dtype.name, x.shape) for x in found)
    sizes = {
        key: count * math.prod(key[1]) * jax.numpy.dtype(key[0]).itemsize / 2**20
        for key, count in counts.items()
    }
    print("| number | dtype | shape | MiB |\n|---|---|---|---|")
    for key in sorted(sizes, key=lambda key: -sizes[key]):
        if sizes[key] >= args.least:
            shape = "x".join(map(str, key[1]))
            print(f"| {counts[key]} | {key[0]} | {shape} | {sizes[key]:.0f} |")
    print(f"| {len(found)} | | all | {sum(sizes.values()):.0f} |")


if __name__ == "__main__":
    main()
