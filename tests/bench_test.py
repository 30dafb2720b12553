from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import mvit_parts
from bench.flops import peak_flops, training_flops
from bench.run import interval, parse, report
from maskfeat_jax.models import create_model

ROOT = Path(__file__).parents[1]


def test_counted_operations_are_about_those_of_the_compiler():
    clip, batch, dim = (2, 48, 80), 3, 54
    model = create_model(
        "maskfeat", encoder="vit_s16", head={"dim": dim}, depth=3, tubelet=(1, 16, 16)
    )
    clips, mask = jnp.zeros((batch, *clip, 3)), jnp.zeros((batch, 2, 3, 5), bool)
    params = jax.eval_shape(model.init, jax.random.key(0), clips, mask)["params"]

    def loss(params, clips, mask):
        return model.apply({"params": params}, clips, mask).sum()

    step = jax.jit(jax.grad(loss)).lower(params, clips, mask)
    counted = batch * training_flops(model.encoder, clip, dim)
    assert 0.95 < step.cost_analysis()["flops"] / counted < 1.1


def test_vit_b_costs_what_the_paper_says():
    encoder = create_model("maskfeat", encoder="vit_b16", head={"dim": 108}).encoder
    forward = training_flops(encoder, (1, 224, 224), 108) / 3
    np.testing.assert_allclose(forward / 2 / 1e9, 17.5, rtol=0.01)  # multiply-adds, ViT-B/16


def test_mvit_s_costs_what_the_paper_says():
    encoder = create_model(
        "maskfeat", encoder="mvit_v2_s", head={"dim": 400}, tubelet=(2, 32, 32)
    ).encoder
    forward = training_flops(encoder, (16, 224, 224), 0) / 3
    # The published 71e9 multiply-adds of the classifier hold pooling and relative positions too.
    np.testing.assert_allclose(forward / 2 / 1e9, 71, rtol=0.05)


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
