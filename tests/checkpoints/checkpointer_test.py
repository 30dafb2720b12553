from __future__ import annotations

import json
import pathlib
import random
import re
import shutil
import threading
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat_jax.checkpoints import arrays as stored_arrays
from maskfeat_jax.checkpoints import manifest, storage
from maskfeat_jax.checkpoints.checkpointer import CheckpointError, Checkpoints
from maskfeat_jax.checkpoints.pretrained import load_params
from maskfeat_jax.models.layers import stack_blocks


@flax.struct.dataclass
class State:
    step: Any
    params: Any
    opt_state: Any
    key: Any
    ema: Any = None


def make_state(step: int, *, ema: bool = False) -> State:
    """Everything that is awkward: bfloat16, scalars, no elements, masked and empty states, keys."""
    keys = jax.random.split(jax.random.key(step), 2)
    params = {
        "encoder": {
            "block.0": {"kernel": jax.random.normal(keys[0], (7, 5)), "scale": jnp.float32(0.1)},
            "half": jax.random.normal(keys[1], (3,), jnp.bfloat16),
        },
        "unused": jnp.zeros((0, 4)),
    }
    decay = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.masked(optax.adamw(1e-3), decay))
    opt_state = tx.init(params)
    assert {"EmptyState", "MaskedNode"} <= set(re.findall(r"\w+", repr(opt_state)))
    kinds = ("threefry2x32", "rbg", "unsafe_rbg")
    generators = {kind: jax.random.split(jax.random.key(step, impl=kind), (2, 3)) for kind in kinds}
    average = params["encoder"] if ema else None
    return State(jnp.int32(step), params, opt_state, generators, average)


def like(state: Any) -> Any:
    return jax.eval_shape(lambda: state)


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save(where: Any, step: int, state: Any, facts: Any, **settings: Any) -> Checkpoints:
    """Saves to the last byte."""
    checkpoints = where if isinstance(where, Checkpoints) else Checkpoints(where, **settings)
    checkpoints.save(step, state, facts)
    checkpoints.finish()
    return checkpoints


def files_of(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def data_of(directory: pathlib.Path, step: int) -> pathlib.Path:
    """The first file with numbers."""
    return next((directory / str(step) / "arrays" / "state" / "d").iterdir())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    """A directory with good steps 1 and 2; copy it before damaging it."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(directory)
    for step in (1, 2):
        save(checkpoints, step, make_state(step), {"seed": step})
    return directory


@pytest.fixture
def copy(saved, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(saved, tmp_path / "checkpoints"))


@pytest.mark.parametrize("ema", [False, True])
def test_a_state_comes_back_bit_for_bit(tmp_path, ema):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest_good() is None
    assert checkpoints.steps() == []
    state = make_state(7, ema=ema)
    facts = {"examples_seen": 7 * 256, "recipe": {"lr": 1e-3}, "by_epoch": {2: "a", 10: "b"}}
    save(checkpoints, 7, state, facts)
    assert checkpoints.latest_good() == 7
    restored, stored_facts = Checkpoints(tmp_path / "checkpoints").restore(7, like(state))
    assert_same(restored, state)
    assert stored_facts == json.loads(json.dumps(facts))
    assert checkpoints.messages() == []


MORE = {f"more_{i}": jnp.ones(2) for i in range(16)}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (
            {"unused": jnp.ones((1, 4))},
            r"unused: stored float32 \(0, 4\), expected float32 \(1, 4\)",
        ),
        ({"unused": jnp.ones((0, 4), jnp.bfloat16)}, r"float32 \(0, 4\), expected bfloat16"),
        ({"unused": {}}, r"params/unused: stored float32 \(0, 4\), not expected"),
        (MORE, r"(?s)params/more_0: expected float32 \(2\), not stored.*and 6 more"),
    ],
)
def test_another_model_is_refused_key_by_key(saved, params, words):
    state = make_state(1)
    other = state.replace(params={**state.params, **params})
    with pytest.raises(CheckpointError, match=words):
        Checkpoints(saved).restore(1, like(other))


@pytest.mark.parametrize("stacked", [False, True])
def test_blocks_are_restored_stacked_or_not_as_asked(tmp_path, stacked):
    """Of parameters and moments; a block too many is refused."""

    def blocks(depth):
        return {str(i): {"kernel": jnp.full((2, 3), i), "bias": jnp.arange(3) + i}
                for i in range(depth)}  # fmt: skip

    def state(depth, stacked):
        like = {"0": 0, f"1-{depth - 1}": 0} if stacked else blocks(depth)
        params = {"encoder": {"blocks": stack_blocks(blocks(depth), like)}, "step": jnp.int32(1)}
        return {"params": params, "opt_state": ({"mu": params},)}

    checkpoints = save(tmp_path, 7, state(4, stacked), {})
    restored, _ = checkpoints.restore(7, like(state(4, not stacked)))
    assert_same(restored, state(4, not stacked))
    with pytest.raises(CheckpointError, match=r"blocks/3/bias: stored int32 \(3\), not expected"):
        checkpoints.restore(7, like(state(3, not stacked)))


def put_back(directory: pathlib.Path, step: int) -> None:
    """What was set aside, so that it can be damaged in another way."""
    (directory / "bad" / str(step)).rename(directory / str(step))


def test_a_flipped_bit_anywhere_is_found_named_set_aside_and_never_loaded(copy):
    rng = random.Random(0)
    expected, flipped = like(make_state(2)), 0
    for path in files_of(copy / "2"):
        name = path.relative_to(copy / "2")
        good = path.read_bytes()
        size = len(good)
        few = rng.sample(range(size), min(size, 6))
        for position in range(0, size, 29) if name.name == "manifest.json" else few:
            data = bytearray(good)
            data[position] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            checkpoints = Checkpoints(copy)
            with pytest.raises(CheckpointError, match=re.escape(str(name))):
                checkpoints.restore(2, expected)
            assert checkpoints.latest_good() == 1, (name, position)
            (sentence,) = checkpoints.messages()
            assert re.search(rf"step 2: {re.escape(str(name))} ", sentence)
            assert checkpoints.messages() == []
            assert (copy / "bad" / "2" / name).read_bytes() == data
            assert checkpoints.steps() == [1]
            put_back(copy, 2)
            flipped += 1
        path.write_bytes(good)
    assert flipped >= 40
    assert Checkpoints(copy).latest_good() == 2


def test_truncated_emptied_deleted_and_exchanged_files_are_found(copy):
    for path in files_of(copy / "2"):
        good = path.read_bytes()
        other = copy / "1" / path.relative_to(copy / "2")
        damages = [good[: len(good) // 2], b"", good + b"\n"]
        damages += [other.read_bytes()] if other.exists() else []
        for data in damages:
            if data != good:
                path.write_bytes(data)
                assert Checkpoints(copy).latest_good() == 1
                put_back(copy, 2)
        path.unlink()
        checkpoints = Checkpoints(copy)
        assert checkpoints.latest_good() == 1
        assert f"{path.name} is missing" in checkpoints.messages()[0]
        put_back(copy, 2)
        path.write_bytes(good)
    assert Checkpoints(copy).latest_good() == 2


def test_a_half_copied_step_and_a_manifest_of_another_step_are_found(copy):
    for path in random.Random(1).sample(files_of(copy / "2"), k=5):
        path.unlink()
    shutil.copytree(copy / "1", copy / "3")
    (copy / "bad" / "3").mkdir(parents=True)  # the name is taken
    checkpoints = Checkpoints(copy)
    assert checkpoints.latest_good() == 1
    of_3, of_2 = checkpoints.messages()
    assert "manifest.json belongs to step 1; not loaded, moved to bad/3-1" in of_3
    assert of_2.startswith("step 2: ")
    assert checkpoints.steps() == [1]
    assert {path.name for path in (copy / "bad").iterdir()} == {"2", "3", "3-1"}
    assert (copy / "bad" / "3-1" / "manifest.json").exists()


def test_if_all_are_bad_the_run_stops_and_says_so_and_stops_again(copy):
    (copy / "1" / "manifest.json").unlink()
    data = data_of(copy, 2)
    data.write_bytes(data.read_bytes()[:-1])
    kept = len(files_of(copy))
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(copy).latest_good()
    message = str(caught.value)
    assert f"step 2: arrays/state/d/{data.name} has" in message
    assert "step 1: manifest.json is missing" in message
    assert "Nothing was deleted" in message
    assert "--workdir" in message
    with pytest.raises(CheckpointError, match="bad/1: moved there at an earlier start"):
        Checkpoints(copy).latest_good()
    checkpoints = Checkpoints(copy, allow_fresh_start=True)
    assert checkpoints.latest_good() is None
    assert "starting from scratch" in checkpoints.messages()[-1]
    assert len(files_of(copy)) == kept
    save(checkpoints, 1, make_state(1), {})
    assert Checkpoints(copy).latest_good() == 1


def test_a_damaged_step_that_cannot_be_moved_is_reported_and_passed_over(copy):
    (copy / "2" / "manifest.json").unlink()
    (copy / "bad").write_text("a file in the way")
    checkpoints = Checkpoints(copy)
    assert checkpoints.latest_good() == 1
    assert "could not be moved to bad/" in checkpoints.messages()[0]


def test_when_its_number_is_saved_anew_a_good_step_stays_and_a_damaged_one_is_moved(copy):
    before = {path: path.stat().st_mtime_ns for path in files_of(copy)}
    save(copy, 2, make_state(2), {"seed": 2})
    assert {path: path.stat().st_mtime_ns for path in files_of(copy)} == before
    data_of(copy, 2).write_bytes(b"broken")
    checkpoints = Checkpoints(copy)
    for name in ("2", "2-1"):
        save(checkpoints, 2, make_state(2), {})
        assert f"moved to bad/{name}, saved again" in checkpoints.messages()[0]
        assert (copy / "bad" / name / "arrays").is_dir()
        assert Checkpoints(copy).latest_good() == 2
        (copy / "2" / "manifest.json").unlink()


def test_large_steps_are_verified_by_length_by_default(copy, monkeypatch):
    data = data_of(copy, 2)
    data.write_bytes(bytes(len(data.read_bytes())))
    monkeypatch.setattr(manifest, "AUTO_BYTES", 0)
    assert Checkpoints(copy).latest_good() == 2
    assert Checkpoints(copy, verify="full").latest_good() == 1
    put_back(copy, 2)
    monkeypatch.undo()
    checkpoints = Checkpoints(copy, verify="length")
    assert checkpoints.latest_good() == 2
    with pytest.raises(CheckpointError, match="2 cannot be loaded"):  # Orbax sees this one
        checkpoints.restore(2, like(make_state(2)))
    assert Checkpoints(copy).latest_good() == 1


@settings(max_examples=8, deadline=None)
@given(
    steps=st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True).map(sorted),
    damaged=st.sets(st.integers(0, 30), max_size=2),
    keep_last=st.integers(1, 3),
)
def test_the_keep_rule(tmp_path_factory, steps, damaged, keep_last):
    directory = tmp_path_factory.mktemp("keep")
    checkpoints = Checkpoints(directory, keep_last=keep_last)
    good: list[int] = []
    broken: list[int] = []
    for step in steps:
        save(checkpoints, step, {"w": jnp.full(3, step)}, {})
        good = [*good, step][-keep_last:]
        assert checkpoints.steps() == sorted(good + broken)
        assert checkpoints.latest_good() == step
        if step in damaged and step != steps[-1]:
            (directory / str(step) / "manifest.json").unlink()
            good.remove(step)
            broken.append(step)
    assert all((directory / str(step) / "arrays").is_dir() for step in broken)


def test_nothing_is_deleted_for_a_step_that_is_not_as_it_was_saved(copy, monkeypatch):
    commit = storage.Storage.commit

    def losing(self: storage.Storage, step: int, *arguments: Any) -> None:
        commit(self, step, *arguments)
        files_of(copy / str(step) / "arrays")[0].unlink()

    monkeypatch.setattr(storage.Storage, "commit", losing)
    with pytest.raises(CheckpointError, match="3 was saved but reads back wrong: .* is missing"):
        save(copy, 3, make_state(3), {}, keep_last=1)
    assert Checkpoints(copy).steps() == [1, 2, 3]


def test_contents_are_hashed_once_per_save_and_once_per_start(tmp_path, monkeypatch):
    """The step that is saved for its manifest, the one that is deleted as a check of the disk."""
    hashed: list[str] = []
    sha256 = manifest.sha256

    def noted(path: pathlib.Path) -> str:
        hashed.append(path.relative_to(tmp_path).parts[0])
        return sha256(path)

    monkeypatch.setattr(manifest, "sha256", noted)
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    state = {"params": {"w": jnp.ones(3)}}
    save(checkpoints, 1, state, {})
    assert set(hashed) == {"1.saving"}
    files = len(hashed)
    save(checkpoints, 2, state, {})
    assert sorted(hashed[files:]) == ["1"] * files + ["2.saving"] * files
    for read in (
        lambda: checkpoints.restore(checkpoints.latest_good(), like(state)),
        lambda: checkpoints.restore(2, like(state)),
        lambda: load_params(tmp_path),
        lambda: load_params(tmp_path / "2"),
    ):
        hashed.clear()
        read()
        assert hashed == ["2"] * files


def test_the_keep_rule_neither_counts_nor_deletes_damaged_steps(copy):
    """Also damage that leaves the length of a file as it was."""
    data = data_of(copy, 1)
    data.write_bytes(bytes(len(data.read_bytes())))
    checkpoints = Checkpoints(copy, keep_last=1)
    save(checkpoints, 3, make_state(3), {})
    assert checkpoints.steps() == [1, 3]
    assert f"step 1: arrays/state/d/{data.name} has other contents" in checkpoints.messages()[0]


def test_a_truncated_step_does_not_count_for_the_keep_rule(copy):
    checkpoints = Checkpoints(copy, keep_last=3)
    save(checkpoints, 3, make_state(3), {})
    data = data_of(copy, 3)
    data.write_bytes(data.read_bytes()[:-1])
    save(checkpoints, 4, make_state(4), {})
    assert checkpoints.steps() == [1, 2, 3, 4]
    save(checkpoints, 5, make_state(5), {})
    assert checkpoints.steps() == [2, 3, 4, 5]


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    ("owner", "name", "latest"),
    [
        (stored_arrays.ocp, "save", 2),
        (storage.manifest, "write", 2),
        (storage, "sync_directory", 3),
        (storage.shutil, "rmtree", 3),
    ],
)
def test_a_crash_at_each_point_of_a_save_leaves_a_good_step(copy, monkeypatch, owner, name, latest):
    def crash(*arguments: Any, **_: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            return  # what is done about an error that is no crash
        if name == "rmtree":  # in the middle of it
            files_of(arguments[0])[0].unlink()
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        with pytest.raises(CheckpointError, match="Crash"):
            save(copy, 3, make_state(3), {}, keep_last=2)
    checkpoints = Checkpoints(copy, keep_last=2)
    assert checkpoints.latest_good() == latest
    assert not (copy / "bad").exists()
    save(checkpoints, 4, make_state(4), {})
    assert checkpoints.latest_good() == 4
    assert {path.name for path in copy.iterdir()} == {str(latest), "4"}


def test_foreign_files_and_links_are_left_alone(tmp_path):
    directory = tmp_path / "checkpoints"
    elsewhere = tmp_path / "elsewhere"
    for path in (elsewhere, directory / "007", directory / "best", directory / "3.orbax-tmp"):
        path.mkdir(parents=True)
        (path / "precious").write_text("precious")
    (directory / "5").symlink_to(elsewhere)
    (directory / "6.saving").symlink_to(elsewhere)
    (directory / "loop").symlink_to(directory)
    (directory / "4").write_text("a file")
    (directory / "7.saving").mkdir()
    (directory / "7.saving" / "precious").write_text("not of a save of ours")
    checkpoints = Checkpoints(directory, keep_last=1)
    for step in (8, 9):
        save(checkpoints, step, {"w": jnp.ones(3)}, {})
    assert checkpoints.steps() == [9]
    names = {path.name for path in directory.iterdir()}
    assert names == {"007", "best", "3.orbax-tmp", "5", "6.saving", "7.saving", "loop", "4", "9"}
    assert len(list(elsewhere.iterdir())) == 1


def test_an_unfinished_save_does_not_count_and_is_cleared_when_there_is_a_good_one(copy):
    (copy / "2").rename(copy / "3.saving")
    with pytest.warns(UserWarning, match="3.saving"):
        load_params(copy)
    (copy / "1").rename(copy / "hidden")
    assert Checkpoints(copy).latest_good() is None
    assert (copy / "3.saving").exists()  # it may be all there is
    (copy / "hidden").rename(copy / "1")
    checkpoints = Checkpoints(copy)
    assert checkpoints.latest_good() == 1
    assert checkpoints.messages() == ["3.saving: of an interrupted save, not loaded"]
    assert {path.name for path in copy.iterdir()} == {"1"}
    (copy / "4.saving").mkdir()
    save(checkpoints, 2, make_state(2), {})
    assert {path.name for path in copy.iterdir()} == {"1", "2"}


@pytest.mark.parametrize(
    ("state", "facts", "words"),
    [
        ({}, {}, "named leaves"),
        (jnp.ones(3), {}, "named leaves"),
        ({"a": jnp.ones(1), "": jnp.ones(1)}, {}, "not empty"),
        ({"a/b": jnp.ones(1)}, {}, "without '/'"),
        ({"a.b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, {}, "joined with dots"),
        ({"a": jnp.ones(1)}, {"path": pathlib.Path()}, "facts must be"),
        ({"a": jnp.ones(1)}, {"loss": float("nan")}, "facts must be"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path, state, facts, words):
    with pytest.raises(ValueError, match=words):
        save(tmp_path / "checkpoints", 1, state, facts)
    assert not (tmp_path / "checkpoints").exists()


def test_settings_are_checked(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        Checkpoints(tmp_path, keep_last=0)
    with pytest.raises(ValueError, match="expected one of auto, full, length"):
        Checkpoints(tmp_path, verify="none")
    with pytest.raises(ValueError, match="-1 is negative"):
        save(tmp_path, -1, {"w": jnp.ones(1)}, {})
    with pytest.raises(CheckpointError, match="no such step"):
        Checkpoints(tmp_path).restore(5, {"w": jnp.ones(1)})


def test_load_params_reads_the_newest_good_weights_only(tmp_path, copy):
    state = make_state(3, ema=True)
    save(copy, 3, state, {"seed": 3})
    for path in (tmp_path, copy, copy / "3"):
        weights = load_params(path)
        assert weights.step == 3
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(weights.params))
        assert_same(weights.params, state.params)
        assert_same(weights.ema, state.ema)
    (copy / "3" / "manifest.json").unlink()
    before = files_of(copy)
    with pytest.warns(
        UserWarning, match="step 3: manifest.json is missing; not loaded, left in place"
    ):
        weights = load_params(tmp_path)
    assert (weights.step, weights.ema) == (2, None)
    assert files_of(copy) == before  # it may be the directory of another run


def test_load_params_says_what_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_params(tmp_path)
    save(tmp_path / "a", 1, {"weights": jnp.ones(3)}, {})
    with pytest.raises(CheckpointError, match="no params, only weights"):
        load_params(tmp_path / "a" / "1")
    data = data_of(tmp_path / "a", 1)
    data.unlink()
    with pytest.raises(CheckpointError, match=f"{data.name} is missing"):
        load_params(tmp_path / "a" / "1")
