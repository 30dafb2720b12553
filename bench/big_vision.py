"""Memory and traffic of a MaskFeat step and of big_vision's, compiled for the same chips.

    BIG_VISION_DIR=<checkout> python -m bench.big_vision --target v5e:2x4 --rows 32

A step of ours masks, computes HOG and predicts it; one of big_vision classifies with the same ViT,
bfloat16 products and AdamW. Ours is compiled with blocks one by one and scanned; big_vision's also
in its scanned form, which recomputes whole blocks, as ours does with `remat`. Needs the compiler of
the target (`make aot`).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maskfeat_jax import recipes
from maskfeat_jax.commands.costs import costs
from maskfeat_jax.commands.estimate import batch_shapes
from maskfeat_jax.commands.hardware import Hardware, hardware
from maskfeat_jax.training.build import build_computation
from maskfeat_jax.training.experiment import abstract_state, jitted_step

CLASSES, SIZE = 1000, 224


def ours(devices: Hardware, rows: int, variant: str, **model: Any) -> jax.stages.Lowered:
    """A step of MaskFeat with HOG."""
    changes = {f"model.{key}": value for key, value in model.items()}
    changes |= {"model.dtype": "bfloat16", "run.batch_size": rows * len(devices.devices)}
    recipe = f"maskfeat_vit_in1k:{variant[0].lower()}16"
    config = recipes.override(recipes.load(recipe), changes).to_dict()
    mesh, of_batch, accumulate, task, optimizer, _ = build_computation(config, devices.devices)
    state = abstract_state(task, optimizer, mesh)
    step = jitted_step(task, optimizer, state, mesh, accumulate)
    return step.lower(state, batch_shapes(task, mesh, of_batch))


def theirs(devices: Hardware, rows: int, variant: str, **model: Any) -> jax.stages.Lowered:
    """A step of big_vision's classifier."""
    sys.path.insert(0, os.environ["BIG_VISION_DIR"])
    from big_vision.models import vit

    network = vit.Model(CLASSES, variant=variant, pool_type="gap", dtype_mm="bfloat16", **model)
    mesh = Mesh(np.array(devices.devices), ("data",))
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    total = rows * len(devices.devices)
    images = jax.ShapeDtypeStruct((total, SIZE, SIZE, 3), jnp.float32, sharding=split)
    labels = jax.ShapeDtypeStruct((total,), jnp.int32, sharding=split)
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = jax.eval_shape(tx.init, params)
    params, state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), (params, state)
    )

    def step(params: Any, state: Any, images: Any, labels: Any) -> tuple[Any, ...]:
        def loss_of(params: Any) -> Any:
            logits = network.apply(params, images)[0]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=(whole, whole, whole))
    return jitted.lower(params, state, images, labels)


def rows_of_table(devices: Hardware, rows: int, variant: str) -> Iterator[str]:
    """A row for each form of each step."""
    steps = {"maskfeat_jax": ours, "big_vision": theirs}
    forms = {"one by one": {"scan": False}, "scanned": {"scan": True}}
    for form, model in forms.items():
        for name, lower in steps.items():
            started = time.perf_counter()
            compiled = lower(devices, rows, variant, **model).compile(devices.compiler_options)
            seconds = time.perf_counter() - started
            temporary = compiled.memory_analysis().temp_size_in_bytes / 2**30
            once = (compiled.cost_analysis() or {}).get("bytes accessed", 0) / 1e9
            found = costs(compiled.as_text())
            moved = f"{found.bytes / 1e9:.1f}" if found else ""
            by_compiler = "" if model["scan"] else f"{once:.1f}"
            yield f"| {name} | {form} | {temporary:.2f} | {by_compiler} | {moved} | {seconds:.0f} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="v5e:2x4", help="as of `main.py estimate`")
    parser.add_argument("--rows", type=int, default=32, help="images of a chip")
    parser.add_argument("--variant", default="B/16", choices=("B/16", "L/16"))
    args = parser.parse_args()
    columns = "step", "blocks", "temporary, GiB", "GB by XLA", "GB by `estimate`", "compiled in, s"
    print(f"| {' | '.join(columns)} |", "---".join("|" * (len(columns) + 1)), sep="\n")
    for row in rows_of_table(hardware(args.target), args.rows, args.variant):
        print(row, flush=True)


if __name__ == "__main__":
    main()
