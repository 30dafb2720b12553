from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.checkpoints.checkpointer import CheckpointError, Checkpoints
from maskfeat_jax.commands.verify_checkpoint import verify_checkpoint
from tests.checkpoints.checkpointer_test import files_of, make_state


def test_every_step_is_reported_and_nothing_changes(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2, 3):
        state = make_state(step)
        if step == 2:
            half = state.params["encoder"]["half"].at[1].set(np.nan)
            state.params["encoder"]["half"] = half
        checkpoints.save(step, state, {"data": f"list {step}"})
    checkpoints.finish()
    lines: list[str] = []
    assert verify_checkpoint(tmp_path, lines.append) == 0
    assert lines[-1] == "3 of 3 steps are good"
    text = "\n".join(lines)
    assert "3: good, step 3, " in text
    assert '  saved with {"data": "list 1"}' in text
    assert text.count("not finite") == 1
    assert "WARNING: values that are not finite in params/encoder/half" in text

    directory = tmp_path / "checkpoints"
    data = files_of(directory / "3" / "arrays")[3]
    data.write_bytes(bytes(data.stat().st_size))
    (directory / "4.saving").mkdir()
    (directory / "bad" / "5").mkdir(parents=True)
    before = files_of(directory)
    for path in (tmp_path, directory):
        lines.clear()
        assert verify_checkpoint(path, lines.append) == 74
        text = "\n".join(lines)
        name = data.relative_to(directory / "3")
        assert f"{directory}/3: DAMAGED, {name} has other contents" in text
        assert "4.saving: left by an interrupted save" in text
        assert "bad/5: moved here as damaged" in text
        assert lines[-1] == "2 of 3 steps are good"
    assert files_of(directory) == before
    assert verify_checkpoint(directory / "2", lines.append) == 0
    assert verify_checkpoint(directory / "3", lines.append) == 74
    (directory / "2" / "manifest.json").unlink()
    assert verify_checkpoint(directory / "2", lines.append) == 74
    assert "manifest.json is missing" in lines[-1]
    with pytest.raises(CheckpointError, match="contains no checkpoint"):
        verify_checkpoint(tmp_path / "elsewhere")


def test_a_step_without_floats_can_be_verified(tmp_path):
    """Keys, integers and empty arrays have no non-finite values."""
    state = {"key": jax.random.key(0), "n": jnp.int32(3), "none": jnp.zeros((0, 3))}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    assert verify_checkpoint(tmp_path, lambda line: None) == 0
