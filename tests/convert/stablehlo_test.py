from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert import stablehlo
from maskfeat_jax.models import create_model

CLASSES = {"name": "classifier", "num_classes": 5}
VIT = {"encoder": "vit_ti16", "width": 32, "depth": 1, "heads": 2}
MVIT = {"encoder": "mvit_v2_s", "width": 8, "depth": 2, "stages": (1,), "tubelet": (2, 8, 8)}
MAE = {"name": "mae", "dim": 7, "visible": 3, "width": 32, "depth": 1, "heads": 2}
CASES = {
    "vit": (CLASSES, VIT, (1, 32, 32)),
    # So many tokens that a CPU computes attention in chunks.
    "chunks": (CLASSES, {**VIT, "depth": 2, "scan": True, "tubelet": (1, 2, 2)}, (1, 96, 96)),
    "mvit": ({"name": "maskfeat", "dim": 7}, MVIT, (4, 32, 32)),
    "mae": (MAE, {**VIT, "tubelet": (2, 16, 16), "dtype": "bfloat16"}, (4, 32, 32)),
    "boxes": ({**CLASSES, "name": "boxes", "bins": 3}, {**VIT, "scan": True}, (1, 32, 64)),
    "probe": ({**CLASSES, "name": "attentive_probe", "heads": 2}, VIT, (1, 32, 32)),
}


@functools.cache
def trained_and_inputs(name):
    head, encoder, clip = CASES[name]
    model = create_model(head["name"], head={k: head[k] for k in head if k != "name"}, **encoder)
    rng = np.random.default_rng(0)
    inputs = [rng.integers(0, 256, (3, *clip, 3), dtype=np.uint8)]
    if head["name"] in ("mae", "maskfeat"):
        grid = model.encoder.grid(clip)
        hidden = np.arange(np.prod(grid)) >= MAE["visible"]
        inputs.append(np.stack([rng.permutation(hidden).reshape(grid) for _ in range(3)]))
    if head["name"] == "boxes":
        corners = np.sort(rng.uniform(0, [64, 32], (3, 2, 2, 2)), axis=2)
        inputs.append(corners.reshape(3, 2, 4).astype(np.float32))
    normalise = Normalise(std=(0.1, 0.2, 0.3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), normalise(inputs[0]), *inputs[1:])
    draw = lambda like: rng.normal(0, 0.2, like.shape).astype(like.dtype)  # noqa: E731
    params = jax.tree.map(draw, shapes["params"])
    recipe = {"head": head, "model": encoder}
    return Pretrained(model, params, clip, normalise, recipe, "a test"), inputs


@functools.cache
def exported(name):
    return stablehlo.export(trained_and_inputs(name)[0])


@pytest.mark.parametrize("name", CASES)
def test_file_gives_what_the_model_gives_for_any_batch(tmp_path, monkeypatch, name):
    trained, inputs = trained_and_inputs(name)
    content = exported(name)
    monkeypatch.setattr(stablehlo, "export", lambda trained: content)
    stablehlo.write(trained, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    loaded = stablehlo.load(tmp_path / "model")
    video, *more = inputs
    apply = jax.jit(trained.model.apply)
    expected = apply({"params": trained.params}, trained.normalise(video), *more)
    assert np.std(expected) > 0.1
    tolerance = 0.02 if name == "mae" else 2e-6  # bfloat16 rounds
    for rows in (1, 3):
        found = loaded(*(x[:rows] for x in inputs))
        np.testing.assert_allclose(found, expected[:rows], rtol=0, atol=tolerance)


def test_platforms_are_all_in_the_file_and_fused_attention_is_not():
    plain, (video,) = trained_and_inputs("vit")
    fused = plain.model.clone(encoder=plain.model.encoder.clone(attention="cudnn"))
    trained = dataclasses.replace(plain, model=fused)
    of_fused = jax.export.deserialize(bytearray(stablehlo.export(trained)))
    assert of_fused.platforms == ("cpu", "cuda", "rocm", "tpu")
    expected = plain.model.apply({"params": plain.params}, plain.normalise(video))
    np.testing.assert_allclose(of_fused.call(video), expected, rtol=0, atol=1e-5)


def test_errors_name_the_file_or_the_checkpoint(tmp_path, monkeypatch):
    trained, (video,) = trained_and_inputs("vit")
    whole = exported("vit")
    for wrong in (b"", b"no module " * 99, whole[:-1000]):
        (tmp_path / "model").write_bytes(wrong)
        with pytest.raises(ValueError, match="model is not a StableHLO file of JAX, or truncated"):
            stablehlo.load(tmp_path / "model")
    (tmp_path / "model").write_bytes(whole)
    with pytest.raises(ValueError, match="Shape mismatch"):
        stablehlo.load(tmp_path / "model")(video[:, :, :16])
    monkeypatch.setattr(stablehlo, "LARGEST", 1000)
    with pytest.raises(ValueError, match="a test: .* of parameters; .* less than 2 GiB"):
        stablehlo.write(trained, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == whole
