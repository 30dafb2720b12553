"""Steps and kernels, compiled for TPUs and GPUs that are not there, by their own compilers."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from maskfeat_jax import recipes, sharding
from maskfeat_jax.commands.estimate import estimate
from maskfeat_jax.commands.hardware import hardware
from maskfeat_jax.ops.attention import TABLE, attention
from maskfeat_jax.ops.hog import hog
from maskfeat_jax.sections import Reader
from maskfeat_jax.tasks import task_of
from maskfeat_jax.training.build import build_computation
from maskfeat_jax.training.experiment import abstract_state, jitted_show_step

pytestmark = pytest.mark.compilers

STEPS = {
    "maskfeat_vit_in1k:b16": {"model.depth": 2},
    "maskfeat_mvit_kinetics:s": {"model.depth": 4, "model.stages": (1, 2, 3)},
    "mae_vit_kinetics:b16": {"model.depth": 2, "head.depth": 1},
    "finetune_mae_vit_kinetics:b16": {"model.depth": 2, "mix.group": 2},
    "linear_mae_vit_in1k:b16": {"model.depth": 2},
}
# Queries, keys, heads, channels of queries and keys, channels of values.
SIZES = {
    "ViT": (197, 197, 12, 64, 64),
    "ViT-H": (393, 393, 16, 80, 80),
    "decoder of MAE": (1569, 1569, 16, 32, 32),
    "MViT": (6273, 1569, 2, 132, 96),
    "attentive probe": (1, 1568, 16, 64, 64),
}


def devices_of(target):
    plugin = "libtpu" if target.startswith("v") else "jax_cuda12_plugin"
    if importlib.util.find_spec(plugin) is None:
        pytest.skip(f"needs {plugin}")
    return hardware(target)


@pytest.mark.parametrize("target", ["v5e:2x4", "h100:8"])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_each_kind_compiles(name, target):
    devices, memory, options = devices_of(target)
    changes = {"model.dtype": "bfloat16", "mesh.parameters": 8, "run.batch_size": 32}
    config = recipes.override(recipes.load(name), {**STEPS[name], **changes})
    found = estimate(build_computation(config.to_dict(), devices), compiler_options=options)
    assert 0 < found.peak_bytes < memory
    assert found.bytes_accessed > found.parameter_bytes
    # Weights, forward and again backward, in bfloat16 or float32; a TPU sends them around a ring,
    # and the sums of their gradients.
    carried = [found.collectives.get(kind) for kind in ("all-gather", "collective-permute")]
    weights = 8 * found.parameter_bytes
    assert 0.4 * weights < sum(each.bytes for each in carried if each) < 6 * weights


@pytest.mark.parametrize("target", ["v5e:2x4", "h100:8"])
@pytest.mark.parametrize("name", ["maskfeat_vit_in1k:b16", "knn_mae_vit_in1k:b16"])
def test_pictures_of_any_number_of_clips_compile(name, target):
    devices, _, options = devices_of(target)
    changes = {"model.dtype": "bfloat16", "model.depth": 2, "mesh.parameters": 8}
    recipe = recipes.override(recipes.load(name), changes).to_dict()
    reader = Reader(recipe)
    task = task_of(reader).from_recipe(reader, (1, 224, 224))
    mesh = sharding.mesh_of(devices, 8)
    state = abstract_state(task, None, mesh)
    clips = jax.ShapeDtypeStruct((6, *task.clip, 3), jnp.uint8, sharding=sharding.replicated(mesh))
    if task.learns:
        lowered = jitted_show_step(task, mesh).lower(state, {"video": clips})
    else:  # needs the features of a training set
        step = sharding.on_mesh(mesh, lambda state, clips: task._features(state.params, clips, 1))
        lowered = jax.jit(step).lower(state, clips)
    assert lowered.compile(dict(options)) is not None


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("target", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "h100:1"])
def test_no_long_attention_is_written_out(target, name, dtype):
    devices, _, options = devices_of(target)
    queries, keys, heads, channels, values = SIZES[name]
    mesh, clips = sharding.mesh_of(devices), 8
    rows = jax.NamedSharding(mesh, PartitionSpec(sharding.ROWS))
    shapes = [(queries, channels), (keys, channels), (keys, values)]
    arguments = [
        jax.ShapeDtypeStruct((clips, tokens, heads, size), dtype, sharding=rows)
        for tokens, size in shapes
    ]

    def gradient(*arrays):
        return jax.grad(lambda *x: attention(*x).astype(jnp.float32).sum(), (0, 1, 2))(*arrays)

    compiled = jax.jit(sharding.on_mesh(mesh, gradient)).lower(*arguments).compile(dict(options))
    if queries * keys > 512**2:
        weights = clips * heads * queries * keys * jnp.dtype(dtype).itemsize / len(devices)
        assert compiled.memory_analysis().temp_size_in_bytes < weights / 2
    if target == "h100:1" and dtype == "bfloat16" and channels <= 128 and queries > 1:
        assert "__cudnn$fmha" in compiled.as_text()


@pytest.mark.parametrize("target", ["v5e:2x2", "h100:1"])
def test_hog_alone_compiles_in_seconds_and_stores_few_planes(target):
    devices, _, options = devices_of(target)
    rows = jax.NamedSharding(sharding.mesh_of(devices[:1]), PartitionSpec())
    images = jax.ShapeDtypeStruct((128, 224, 224, 3), jnp.float32, sharding=rows)
    compiled = jax.jit(hog).lower(images).compile(dict(options))
    assert compiled.memory_analysis().temp_size_in_bytes < 5 * images.size * 4


@pytest.mark.parametrize(("kernel", "target"), [("cudnn", "v5e:2x2"), ("splash", "h100:1")])
def test_a_kernel_of_other_devices_is_refused(kernel, target):
    devices = devices_of(target).devices
    assert kernel in TABLE
    changes = {"model.attention": kernel, "run.batch_size": 32}
    config = recipes.override(recipes.load("maskfeat_vit_in1k:b16"), changes)
    with pytest.raises(ValueError, match=f"attention='{kernel}' needs"):
        build_computation(config.to_dict(), devices)
