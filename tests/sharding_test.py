"""Many devices equal one. In processes of their own: devices are counted at start."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import math
import os
import re
import socket
import subprocess
import sys
import types
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from maskfeat_jax import masking, recipes, sharding, targets
from maskfeat_jax.commands.collectives import operations
from maskfeat_jax.commands.estimate import batch_shapes
from maskfeat_jax.models import MODELS, VARIANTS, create_model
from maskfeat_jax.ops.attention import TABLE, attention, chunked, short, splash
from maskfeat_jax.ops.neighbours import nearest, unit
from maskfeat_jax.optim import AdamW, Lars
from maskfeat_jax.state import TrainState
from maskfeat_jax.tasks import Pretrain
from maskfeat_jax.training.build import build_computation
from maskfeat_jax.training.experiment import abstract_state, jitted_step
from tests import steps_test
from tests.models.initial import shapes_of
from tests.recipes import ROOT

# (parameters, tensor) of 8 devices; data takes the rest.
MESHES = [(1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (2, 2), (4, 2), (1, 4), (2, 4), (1, 8)]
MIXED = [(2, 2)]  # all three axes have two devices
HEADS: dict[str, dict[str, Any]] = {
    "attentive_probe": {"num_classes": 1001, "heads": 1},
    "boxes": {"num_classes": 81},
    "classifier": {"num_classes": 1001},
    "features": {},
    "linear_probe": {"num_classes": 1001},
    "mae": {"dim": 108, "visible": 12},
    "maskfeat": {"dim": 108},
}


def run(
    devices: int,
    function: str,
    *arguments: Any,
    processes: int = 1,
    module: str = "tests.sharding_test",
) -> list[Any]:
    """What a function returns in each of some processes with so many devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    code = f"""
import importlib, json, sys
sys.path.insert(0, {str(ROOT)!r})
import jax
if {processes} > 1:
    jax.distributed.initialize({address!r}, {processes}, int(sys.argv[1]))
module = importlib.import_module({module!r})
print("RESULT", json.dumps(module.{function}(*json.loads(sys.argv[2]))))
"""
    flags = f"--xla_force_host_platform_device_count={devices}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(index), json.dumps(arguments)],
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]
    try:
        ended = [process.communicate(timeout=900) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, ended, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(output.split("RESULT ")[1]) for output, _ in ended]


def pooling() -> tuple[TrainState, Any, Any]:
    """MaskFeat with a small MViT, on clips of four frames."""
    target = targets.Hog((2, 8, 8), cell=4)
    sizes = {"width": 16, "depth": 2, "heads": 2, "stages": (1,), "tubelet": (2, 8, 8)}
    model = create_model("maskfeat", encoder="mvit_v2_s", head={"dim": target.dim}, **sizes)
    common = {**steps_test.COMMON, "clip": (4, 32, 32)}
    task = Pretrain(model=model, masker=masking.Random(0.5), target=target, **common)
    return steps_test.trained(task, AdamW(**steps_test.SETTINGS))


CASES = {
    "vit": functools.partial(steps_test.pretraining, ema_decay=0.9),
    "mvit": pooling,
    "mae": steps_test.autoencoding,
    "finetune": steps_test.finetuning,
    "probe": steps_test.probing,
    "boxes": steps_test.detecting,
}


def clips(case: str, seed: int) -> dict[str, np.ndarray]:
    batch = steps_test.batch(b=16, seed=seed)
    if case == "mvit":
        frames = [steps_test.batch(b=16, seed=seed + more)["video"] for more in range(4)]
        batch["video"] = np.concatenate(frames, 1)
    return batch


def train(mesh: jax.sharding.Mesh, case: str, updates: int, **more: Any) -> list[float]:
    """Losses, then the number of shards of an MLP kernel, its moments and its average.

    The processes load their shares and nothing else.
    """
    state, task, optimizer = CASES[case]()
    state = jax.device_get(state)
    shardings = sharding.state_sharding(mesh, state)
    index, count = sharding.batch_share(mesh)

    def to_devices(whole: Any, layout: Any) -> jax.Array:
        return jax.make_array_from_callback(np.shape(whole), layout, lambda at: np.array(whole)[at])

    state = jax.tree.map(to_devices, state, shardings)
    update = jax.jit(
        sharding.on_mesh(mesh, functools.partial(task.train_step, optimizer=optimizer, **more)),
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=(shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )
    losses = []
    for seed in range(updates):
        share = {name: np.split(x, count)[index] for name, x in clips(case, seed).items()}
        state, metrics = update(state, sharding.to_device(mesh, share))
        losses.append(float(metrics["loss"]))
    named = jax.tree_util.tree_leaves_with_path(state)
    kernels = [leaf for path, leaf in named if "['fc1']['kernel']" in jax.tree_util.keystr(path)]
    return [*losses, min(leaf.size / leaf.addressable_data(0).size for leaf in kernels)]


def losses_by_mesh(case: str, meshes: list[tuple[int, int]], fields: dict, more: dict) -> list:
    """Of one device, then of all of them as each of the meshes."""
    with mock.patch.dict(steps_test.FIELDS, fields):
        one = train(sharding.mesh_of(jax.devices()[:1]), case, 4)
        return [one] + [train(sharding.create_mesh(*mesh), case, 4, **more) for mesh in meshes]


def programs(name: str, changes: dict[str, Any], rows: int, meshes: list[tuple[int, int]]) -> list:
    """The collectives and the bytes of temporary arrays of the step of a recipe, on each mesh."""
    made = []
    for parameters, tensor in meshes:
        config = recipes.override(recipes.load(name), {**changes, "run.batch_size": rows})
        recipe = {**config.to_dict(), "mesh": {"parameters": parameters, "tensor": tensor}}
        mesh, _, _, task, optimizer, _ = build_computation(recipe)
        state = abstract_state(task, optimizer, mesh)
        step = jitted_step(task, optimizer, state, mesh)
        program = step.lower(state, batch_shapes(task, mesh, rows)).compile()
        found = [one._asdict() for one in operations(program.as_text())]
        made.append((found, program.memory_analysis().temp_size_in_bytes))
    return made


def carried(program: Any) -> list[tuple[int, ...]]:
    """The shapes that collectives of a compiled program carry."""
    return [shape for one in operations(program.as_text()) for shape in one.shapes]


def attended(clips: int, meshes: list[tuple[int, int]]) -> list:
    """Attention in a mesh against no mesh, by kernel and mesh: the largest difference, shapes.

    The difference is that of the results and gradients; the shapes those that collectives carry.
    """
    rng = np.random.default_rng(0)
    arrays = [np.float32(rng.standard_normal((clips, n, 4, 8))) for n in (13, 9, 9, 13)]
    forms = {
        "chunked": chunked.attend,
        "short": functools.partial(short.attend, interpret=True),
        "splash": functools.partial(splash.attend, interpret=True),
    }

    def run(kernel: str, q: Any, k: Any, v: Any, g: Any) -> list[Any]:
        y, back = jax.vjp(lambda *x: attention(*x, kernel=kernel), q, k, v)
        return [y, *back(g)]

    found = []
    for kernel, attend in forms.items():
        fake = types.SimpleNamespace(attend=attend, refusal=lambda *_: None)
        with mock.patch.dict(TABLE, {kernel: fake}), mock.patch.object(chunked, "LARGE", 0):
            alone = jax.jit(functools.partial(run, kernel))(*arrays)
            for shape in meshes:
                mesh = sharding.create_mesh(*shape)
                step = sharding.on_mesh(mesh, functools.partial(run, kernel))
                whole = clips % sharding.row_shards(mesh)
                rows = sharding.replicated(mesh) if whole else sharding.batch_sharding(mesh)
                batch = [jax.device_put(x, rows) for x in arrays]
                layout = [rows] * 4
                program = jax.jit(step, out_shardings=layout).lower(*batch).compile()
                pairs = zip(program(*batch), alone, strict=True)
                worst = max(float(np.abs(np.asarray(a) - b).max()) for a, b in pairs)
                found.append((kernel, shape, worst, carried(program)))
    return found


def losses_of_all(case: str, meshes: list[tuple[int, int]]) -> list:
    """The share of this process, then what `train` gives, on each of the meshes."""
    made = [sharding.create_mesh(*mesh) for mesh in meshes]
    with mock.patch.dict(steps_test.FIELDS, {"depth": 1}):
        return [[*sharding.batch_share(mesh), *train(mesh, case, 2)] for mesh in made]


@pytest.mark.parametrize(
    ("case", "meshes"),
    [
        ("vit", [(8, 1), (2, 2), (1, 8)]),
        pytest.param("vit", MESHES, marks=pytest.mark.slow),
        *((case, MIXED) for case in CASES if case != "vit"),
        *(
            pytest.param(case, [(8, 1), (1, 8)], marks=pytest.mark.slow)
            for case in CASES
            if case != "vit"
        ),
    ],
)
def test_eight_devices_equal_one_in_any_mesh(case, meshes):
    one, *many = run(8, "losses_by_mesh", case, meshes, {"depth": 1}, {})[0]
    for mesh, (*losses, shards) in zip(meshes, many, strict=True):
        np.testing.assert_allclose(losses, one[:-1], rtol=1e-5, err_msg=str(mesh))
        assert shards == np.prod(mesh), mesh


VIT = {"model.encoder": "vit_s16", "model.depth": 2, "model.scan": True}
SMALL = {"view.size": 64, "eval_view.size": 64, "view.frames": 4, "eval_view.frames": 4}
MVIT = {
    **SMALL,
    "model.width": 48,
    "model.heads": 2,
    "model.depth": 2,
    "model.stages": (1,),
    "model.tubelet": (2, 8, 8),
}
PROGRAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("maskfeat_vit_in1k:b16", VIT),
    "mae": ("mae_vit_in1k:b16", {**VIT, "head.depth": 1}),
    "mvit": ("maskfeat_mvit_kinetics:s", {**MVIT, "mask.window": (2, 4, 4)}),
    "finetuned vit": ("finetune_vit_in1k:b16", {**VIT, "mix.group": 2}),
    "finetuned mvit": ("finetune_mvit_kinetics:s", {**MVIT, "mix.group": 2}),
}
ROWS = 8 * 2 * 11  # no size of a parameter is a multiple of 11


def with_rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Collectives that carry an array with an axis of rows."""
    return [one for one in found if any(not size % 11 for shape in one["shapes"] for size in shape)]


@pytest.mark.parametrize(
    "case",
    [*list(PROGRAMS)[:-1], pytest.param("finetuned mvit", marks=pytest.mark.slow)],
)
def test_rows_stay_on_their_devices(case):
    """Weights are gathered instead: no array that a collective carries has rows."""
    programs = run(8, "programs", *PROGRAMS[case], ROWS, [(1, 1), (8, 1)])[0]
    (_, of_data), (found, of_parameters) = programs
    assert found
    assert not with_rows(found)
    assert of_parameters <= 1.1 * of_data


@pytest.mark.parametrize(
    ("case", "changes", "mesh", "sums"),
    [
        ("vit", {}, (4, 2), 2 * 2),
        ("vit", {"model.heads": 8}, (1, 8), 2 * 2),
        ("vit", {"model.depth": 3, "model.scan": False}, (4, 2), 3 * 2),
        ("mae", {}, (4, 2), 3 * 2),  # one block is the decoder's
        ("mvit", {}, (4, 2), 2 * 2),
        ("mvit", {"model.heads": 1}, (4, 2), 2 * 2 - 1),  # its first block has one head
        ("finetuned vit", {}, (4, 2), 2 * 2),
        pytest.param("finetuned mvit", {}, (4, 2), 2 * 2, marks=pytest.mark.slow),
    ],
)
def test_tensor_costs_two_sums_a_block(case, changes, mesh, sums):
    """Forward, and two backward: no other collective carries rows."""
    name, common = PROGRAMS[case]
    ((found, _),) = run(8, "programs", name, {**common, **changes}, ROWS, [mesh])[0]
    carrying = with_rows(found)
    assert {one["kind"] for one in carrying} == {"all-reduce"}
    backward = sum(one["times"] for one in carrying if "transpose(" in one["source"])
    forward = sum(one["times"] for one in carrying) - backward
    assert (forward, backward) == (sums, sums)


def test_weights_are_gathered_block_by_block():
    """Each block of the scan gathers its own, forward and again backward, and no more at once."""
    ((found, _),) = run(8, "programs", *PROGRAMS["vit"], ROWS, [(8, 1)])[0]
    in_scan: collections.Counter[tuple[str, int]] = collections.Counter()
    for one in found:
        for size in map(math.prod, one["shapes"]):
            if one["kind"] == "all-gather":
                assert size <= 384 * 1536
                if one["times"] == 2:
                    in_scan["backward" if "transpose(" in one["source"] else "forward", size] += 1
    kernels = {384 * 384: 4, 384 * 1536: 2}  # of queries, keys, values, proj; fc1 and fc2
    passes = ("forward", "backward")
    assert in_scan == {(each, size): n for each in passes for size, n in kernels.items()}


def test_attention_on_eight_devices_equals_one():
    meshes = [(2, 1), (2, 2), (1, 8)]  # of 4 heads
    for kernel, mesh, worst, shapes in run(8, "attended", 8, meshes)[0]:
        assert worst < 1e-4, (kernel, mesh)
        if mesh[1] == 1:  # each device computes its clips
            assert not shapes, (kernel, mesh, shapes)


def test_attention_of_clips_that_do_not_divide():
    """As in pictures: each device computes all of them."""
    for kernel, mesh, worst, _ in run(8, "attended", 6, [(2, 1)])[0]:
        assert worst < 1e-4, (kernel, mesh)


def test_stacked_recomputed_and_accumulated():
    fields = {"scan": True, "remat": True}
    one, *many = run(8, "losses_by_mesh", "vit", [(2, 2)], fields, {"accumulate": 2})[0]
    np.testing.assert_allclose(many[0], [*one[:-1], 4], rtol=1e-5)


@pytest.mark.parametrize(
    "meshes",
    [[(2, 2), (1, 8)], pytest.param([(1, 1), (4, 1)], marks=pytest.mark.slow)],
)
def test_two_processes_equal_one_device(meshes):
    (alone,) = run(1, "losses_of_all", "vit", [(1, 1)])[0]
    results = run(4, "losses_of_all", "vit", meshes, processes=2)
    for process, by_mesh in enumerate(results):
        for mesh, (index, count, *losses) in zip(meshes, by_mesh, strict=True):
            # All eight devices compute the same rows: both processes load all of them.
            assert (index, count) == ((0, 1) if mesh == (1, 8) else (process, 2))
            np.testing.assert_allclose(losses[:-1], alone[2:-1], rtol=1e-5, err_msg=str(mesh))


def test_shares_of_processes():
    assert sharding.shares([{0}, {0}, {1}, {1}]) == {0: (0, 2), 1: (1, 2)}
    assert sharding.shares([{1}, {1}, {0}, {0}]) == {1: (0, 2), 0: (1, 2)}  # by rows, not by name
    assert sharding.shares([{0, 1}, {2, 3}]) == {0: (0, 2), 1: (0, 2), 2: (1, 2), 3: (1, 2)}
    assert sharding.shares([{0, 1, 2}]) == {0: (0, 1), 1: (0, 1), 2: (0, 1)}


@pytest.mark.parametrize(
    "holders",
    [
        [{0}, {1}, {0}, {1}],  # not in one piece
        [{0}, {1}, {1}, {0}],
        [{0}, {0}, {0}, {1}],  # not equal
        [{0}, {0}, {1}, {2}],
        [{0}, {0, 1}, {1, 2}, {2}],  # half shared
    ],
)
def test_shares_that_are_none_are_refused(holders):
    with pytest.raises(sharding.MeshError, match="not one of several equal shares; .*mesh.tensor"):
        sharding.shares(holders)


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """A device of some process."""

    id: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "fake"

    @property
    def client(self) -> Any:
        return jax.devices("cpu")[0].client


def test_an_order_of_devices_that_scatters_the_rows_of_a_process_is_changed(monkeypatch):
    fakes = [FakeDevice(number, number % 2) for number in range(8)]
    scattered = sharding.mesh_of(fakes, 2)
    with pytest.raises(sharding.MeshError, match=r"shards \[0, 2, 4, 6\] of the 8"):
        sharding.batch_share(scattered)
    real = jax.devices
    monkeypatch.setattr("jax.devices", lambda *kind: real(*kind) if kind else fakes)
    for shape in ((1, 1), (2, 1), (8, 1)):
        mesh = sharding.create_mesh(*shape)
        assert sorted(device.id for device in mesh.devices.flat) == list(range(8))
        assert sharding.batch_share(mesh) == (0, 2)


def params_of(model: str, variant: str, **fields: Any) -> Any:
    """Parameters of a model, as they are for a small clip."""
    clip = (4, 64, 64) if variant.startswith("mvit") else (1, 112, 112)
    return shapes_of(create_model(model, encoder=variant, head=HEADS[model], **fields), clip)


def fake_mesh(**sizes: int) -> jax.sharding.AbstractMesh:
    """A mesh without devices."""
    sizes = {"data": 1, "parameters": 1, "tensor": 1, **sizes}
    return jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes))


def sizes(params: Any, mesh: jax.sharding.AbstractMesh) -> tuple[int, int, int]:
    """Numbers in parameters, in their shards on one device, and in those that are not sharded."""
    layouts = jax.tree.leaves(sharding.state_sharding(mesh, params))
    of_leaves = [
        (leaf.size, math.prod(layout.shard_shape(leaf.shape)), layout.is_fully_replicated)
        for leaf, layout in zip(jax.tree.leaves(params), layouts, strict=True)
    ]
    total, shard, whole = zip(*((n, m, n * kept) for n, m, kept in of_leaves), strict=True)
    return sum(total), sum(shard), sum(whole)


@pytest.mark.parametrize(
    ("model", "variant"),
    [("maskfeat", variant) for variant in VARIANTS] + [(model, "vit_s16") for model in MODELS],
)
def test_rules_split_every_model(model, variant):
    params = params_of(model, variant, scan=True)
    total, shard, whole = sizes(params, fake_mesh(parameters=8))
    assert whole < 0.02 * total  # biases, norms, tables of positions
    assert shard == (total - whole) / 8 + whole
    mesh = fake_mesh(parameters=8, tensor=2)
    total, shard, _ = sizes(params, mesh)
    assert total / shard > 10  # of 16: heads, embedding and small tables have fewer shards
    shardings = sharding.state_sharding(mesh, params)
    for name, block in shardings["encoder"]["blocks"].items():
        if "-" in name:  # the axis of stacked blocks is not sharded
            assert {layout.spec[0] for layout in jax.tree.leaves(block)} <= {None}


def test_moments_and_averages_are_sharded_like_their_parameters():
    mesh = fake_mesh(parameters=2, tensor=2)
    params = params_of("linear_probe", "vit_ti16")
    frozen = ("^encoder/patch_embed/", "^norm/")
    for rule in (AdamW(lr=1, ema_decay=0.9), Lars(lr=1)):
        length = {"steps_per_epoch": 1, "epochs": 1, "batch_size": 1}
        optimizer = rule.optimizer(params, **length, frozen=frozen)
        create = functools.partial(TrainState.create, optimizer=optimizer)
        state = jax.eval_shape(create, params)
        shardings = sharding.state_sharding(mesh, state)
        named = {
            jax.tree_util.keystr(path, simple=True, separator="/"): layout.spec
            for path, layout in jax.tree_util.tree_leaves_with_path(shardings)
        }
        found = [
            {spec for name, spec in named.items() if name.endswith(ending)}
            for ending in ("encoder/blocks/3/attn/qkv/kernel", "encoder/blocks/0/attn/qkv/bias")
        ]
        assert found == [{P(("parameters", "tensor"), None)}, {P(None)}]
        count = sum(name.endswith("encoder/blocks/3/attn/qkv/kernel") for name in named)
        assert count == {AdamW: 4, Lars: 2}[type(rule)]  # itself, mean, variance, average


def test_an_axis_that_does_not_fit_goes_elsewhere_or_stays_whole():
    def spec(name: str, *shape: int, parameters: int = 1, tensor: int = 1) -> Any:
        mesh = fake_mesh(parameters=parameters, tensor=tensor)
        return sharding._spec(sharding.rule_of(name), name, shape, mesh)

    assert spec("projection/kernel", 768, 1000, parameters=8) == P("parameters", None)
    assert spec("projection/kernel", 100, 1000, parameters=8) == P(None, "parameters")
    assert spec("projection/kernel", 100, 9, parameters=8) == P(None, None)
    assert spec("encoder/blocks/0-7/mlp/fc2/kernel", 8, 4, 5, parameters=8) == P(None, None, None)
    name = "encoder/blocks/0-7/attn/proj/kernel"
    assert spec(name, 8, 16, 9, parameters=4) == P(None, "parameters", None)
    assert spec(name, 8, 16, 9, parameters=4, tensor=2) == P(None, ("parameters", "tensor"), None)
    assert spec(name, 8, 16, 9, parameters=16, tensor=2) == P(None, "tensor", None)
    with pytest.raises(sharding.MeshError, match=r"mesh.tensor=3 does not divide axis -2 of enco"):
        spec(name, 8, 16, 9, tensor=3)


def test_rules_that_match_nothing_and_parameters_without_a_rule_are_named():
    params = params_of("maskfeat", "vit_ti16")
    mesh = fake_mesh(parameters=2)
    with pytest.raises(ValueError, match="no rule .* matches encoder/whatever"):
        sharding.state_sharding(mesh, {"encoder": {**params["encoder"], "whatever": np.ones(3)}})
    missing = {"encoder": {**params["encoder"], "patch_embed": {}}}
    with pytest.raises(ValueError, match=r"no parameter matches .*norm.* of sharding.RULES|patch"):
        sharding.state_sharding(mesh, missing)


def neighbours_by_shards() -> dict[str, Any]:
    """Whether they are right, and how many numbers the largest message holds."""
    rng = np.random.default_rng(0)
    bank = np.asarray(unit(rng.standard_normal((4, 500, 16)).astype(np.float32)))
    labels = rng.integers(0, 5, (4, 500)).astype(np.int32)
    queries = np.asarray(unit(rng.standard_normal((64, 16)).astype(np.float32)))
    mesh = sharding.create_mesh()
    rows = sharding.batch_sharding(mesh)
    search = jax.jit(
        lambda *x: nearest(*x, 20),
        in_shardings=(rows,) * 3,
        out_shardings=sharding.replicated(mesh),
    )
    search = search.lower(queries, bank, labels).compile()
    messages = re.findall(r"= \w+\[([\d,]+)\]\S* all-", search.as_text())
    found = np.asarray(search(queries, bank, labels)[1])
    order = np.argsort(-(queries @ bank.reshape(-1, 16).T), 1)[:, :20]
    sizes = [int(np.prod([int(size) for size in shape.split(",")])) for shape in messages]
    return {"right": bool((found == labels.ravel()[order]).all()), "moved": max(sizes)}


def test_neighbours_are_searched_in_each_shard():
    (result,) = run(4, "neighbours_by_shards")
    assert result["right"]
    assert result["moved"] <= 64 * 20 * 4  # the best of each shard, not 64 x 2000 cosines


def test_ids_travel_whole():
    mesh = sharding.create_mesh()
    index = np.array([3, 2**40 + 5, -1], np.int64)
    halves = np.asarray(sharding.to_device(mesh, {"index": index})["index"])
    assert halves.dtype == np.int32
    np.testing.assert_array_equal(halves.view(np.int64)[:, 0], index)


def test_create_mesh_refuses():
    with pytest.raises(sharding.MeshError, match=r"1 devices .* groups of 3 \(mesh.parameters=3"):
        sharding.create_mesh(3)
    with pytest.raises(sharding.MeshError, match=r"8 devices .* groups of 6 \(.*x mesh.tensor=2\)"):
        sharding.mesh_of(jax.devices() * 8, 3, 2)
    with pytest.raises(sharding.MeshError, match=r"mesh.tensor=0 must be 1 or more"):
        sharding.create_mesh(1, 0)
    assert sharding.create_mesh().axis_names == sharding.AXES
    assert jax.device_count() == 1
