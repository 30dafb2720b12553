from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import cases, mask_ratios, mvit_parts
from bench.cases import CLIP, mae_task
from bench.flops import peak_flops, training_flops
from bench.originals import mae_st
from bench.run import BATCHES, compare, interval, parse, report
from maskfeat_jax.models import VARIANTS, create_model
from maskfeat_jax.models.vit import ViT

ROOT = Path(__file__).parents[1]


def counted_by_the_compiler(model, batch, clip, visible):
    """Operations of forward and backward pass by XLA, per operation counted by us."""
    clips, mask = jnp.zeros((batch, *clip, 3)), np.arange(30).reshape(2, 3, 5) >= visible
    mask = jnp.broadcast_to(mask, (batch, 2, 3, 5))
    params = jax.eval_shape(model.init, jax.random.key(0), clips, mask)["params"]

    def loss(params, clips, mask):
        return model.apply({"params": params}, clips, mask).sum()

    step = jax.jit(jax.grad(loss)).lower(params, clips, mask)
    return step.cost_analysis()["flops"] / (batch * training_flops(model, clip))


@pytest.mark.parametrize(
    ("name", "head"), [("maskfeat", {}), ("mae", {"visible": 12, "width": 192, "heads": 3})]
)
def test_counted_operations_are_about_those_of_the_compiler(name, head):
    model = create_model(
        name, encoder="vit_s16", head={"dim": 54, **head}, depth=3, tubelet=(1, 16, 16)
    )
    assert 0.95 < counted_by_the_compiler(model, 3, (2, 48, 80), 12) < 1.1


def gigamacs(model, clip):
    return training_flops(model, clip) / 3 / 2e9


def test_vit_b_costs_what_the_paper_says():
    model = create_model("maskfeat", encoder="vit_b16", head={"dim": 108})
    np.testing.assert_allclose(gigamacs(model, (1, 224, 224)), 17.5, rtol=0.01)


def test_mvit_s_costs_what_the_paper_says():
    model = create_model("maskfeat", encoder="mvit_v2_s", head={"dim": 0}, tubelet=(2, 32, 32))
    # The published 71e9 multiply-adds of the classifier hold pooling and relative positions too.
    np.testing.assert_allclose(gigamacs(model, (16, 224, 224)), 71, rtol=0.05)


@pytest.mark.parametrize(
    ("encoder", "ratio", "wanted"),
    [
        ("vit_b16", 0.9, 44.48),
        ("vit_b16", 0, 211.6),
        ("vit_l16", 0.9, 79.39),
        ("vit_l16", 0, 628.6),
        ("vit_h16", 0.9, 131.65),
    ],
)
def test_autoencoders_cost_what_the_formulas_say(encoder, ratio, wanted):
    model = mae_task(encoder, CLIP, ratio, "float32").model
    # Of ViT-L the paper says 81.0 and 627.5: all tokens embedded (2.2 more), no prediction (0.6).
    np.testing.assert_allclose(gigamacs(model, CLIP), wanted, rtol=1e-3)


def test_peaks_by_kind_of_device():
    assert peak_flops("NVIDIA H100 PCIe") < peak_flops("NVIDIA H100 80GB HBM3")
    assert peak_flops("TPU v5 lite") < peak_flops("TPU v5p")
    assert peak_flops("cpu") is None


def test_interval_holds_the_ratio_and_shrinks_where_times_agree():
    low, high = interval([4.0] * 9, [2.0] * 9)
    assert low == high == 2
    noisy = np.random.default_rng(0).uniform(3, 5, 9)
    low, high = interval(noisy.tolist(), [2.0] * 9)
    assert low < np.median(noisy) / 2 < high


def test_report_says_the_ratio():
    side = {"median_s": 0.5, "seconds": [0.4, 0.5, 0.6], "framework": "f", "device": "d"}
    result = {"case": "hog", "batch": 8, "ours": side, "theirs": side | {"median_s": 1.0}}
    text = report(result | {"ratio": 2.0, "ratio_95": (1.5, 2.5)})
    assert "2.00 (95 %: 1.50-2.50)" in text
    assert "16.00 samples/s" in text


def test_unknown_cases_are_refused(capsys):
    with pytest.raises(SystemExit):
        parse(["hug"])
    assert "hog" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["conv", "attention"])
def test_forms_of_the_parts_of_mvit_agree(part):
    prepare, forms, case = {
        "conv": (mvit_parts.conv_case, mvit_parts.CONV_FORMS, (2, 6, 2, 1)),
        "attention": (mvit_parts.attention_case, mvit_parts.ATTENTION_FORMS, (2, 4, 2, 1)),
    }[part]
    _, arrays, call = prepare(case, 1, "float32")
    wanted = call(forms["kept"])(*arrays)
    for name, form in forms.items():
        if name != "cudnn":
            np.testing.assert_allclose(call(form)(*arrays), wanted, atol=1e-4, err_msg=name)


def test_both_sides_have_the_cases_of_the_command():
    assert set(cases.CASES) == set(BATCHES)
    pytest.importorskip("torch")
    from bench import original_cases

    assert set(original_cases.CASES) == set(BATCHES)


def test_a_case_runs_against_its_own_original(monkeypatch):
    sides = []

    class Fake:
        facts: ClassVar = {}

        def __init__(self, side, case, args):
            sides.append((case, side))

        def seconds(self, runs):
            return 1.0

        def close(self):
            pass

    monkeypatch.setattr("bench.run.Worker", Fake)
    monkeypatch.setattr("bench.run.available", lambda variable: variable == "MAE_ST_DIR")
    args = parse(["mae_b", "vit_b", "--rounds=1", "--runs=1"])
    assert compare("mae_b", args)["ratio"] == 1
    assert "theirs" not in compare("vit_b", args)
    assert sides == [("mae_b", "ours"), ("mae_b", "theirs"), ("vit_b", "ours")]


@pytest.mark.original("MAE_ST_DIR")
def test_fused_attention_of_mae_is_its_attention():
    torch = pytest.importorskip("torch")
    from bench.original_cases import fused_attention_of_mae

    torch.manual_seed(0)
    layer, tokens = mae_st("util.video_vit").Attention(32, 4, qkv_bias=True), torch.randn(2, 5, 32)
    torch.testing.assert_close(fused_attention_of_mae(layer, tokens), layer(tokens))


@pytest.mark.slow
def test_mask_ratios_take_turns_on_the_same_parameters(monkeypatch):
    monkeypatch.setitem(
        VARIANTS, "vit_1", (ViT, {"width": 64, "depth": 1, "heads": 2, "scan": True})
    )
    args = mask_ratios.parse(["vit_1", "--rounds=2", "--batch=2"])
    rows = mask_ratios.measure("vit_1", (0, 0.75), (4, 32, 32), args)
    assert [row["visible"] for row in rows] == [7, 2]  # of 8
    assert all(len(row["seconds"]) == 2 for row in rows)
    assert rows[0]["faster"] == 1
    assert rows[0]["flops"] > rows[1]["flops"]
    lines = mask_ratios.table(rows, args.batch).splitlines()
    assert lines[-1].split()[:2] == ["0.75", "2"]
    assert f"{rows[1]['faster']:.2f} (" in lines[-1]


@pytest.mark.slow
def test_command_times_our_side_alone_without_the_original(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "SLOWFAST_DIR"}
    file = tmp_path / "times.json"
    command = [sys.executable, "-m", "bench.run", "hog", "--batch=2", "--rounds=2", "--runs=1"]
    ended = subprocess.run(
        [*command, f"--json={file}"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    (result,) = json.loads(file.read_text())["results"]
    assert len(result["ours"]["seconds"]) == 2
    assert result["ours"]["median_s"] > 0
    assert "theirs" not in result
