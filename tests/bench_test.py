from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from bench import cases, gpu, gpu_checks, mask_ratios, mvit_parts
from bench.originals import mae_st
from bench.run import BATCHES, compare, interval, parse, report
from maskfeat_jax.flops import peak_flops
from maskfeat_jax.models import VARIANTS
from maskfeat_jax.models.vit import ViT
from maskfeat_jax.ops.attention import chunked

ROOT = Path(__file__).parents[1]


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


@pytest.mark.parametrize("operation", ["conv", "attention"])
def test_implementations_of_operations_of_mvit_agree(operation):
    prepare, forms, case = {
        "conv": (mvit_parts.conv_case, mvit_parts.CONV_FORMS, (2, 6, 2, 1)),
        "attention": (mvit_parts.attention_case, mvit_parts.ATTENTION_FORMS, (2, 4, 2, 1)),
    }[operation]
    _, arrays, call = prepare(case, 1, "float32")
    expected = call(forms["kept"])(*arrays)
    for name, form in forms.items():
        if name != "cudnn":
            np.testing.assert_allclose(call(form)(*arrays), expected, atol=1e-4, err_msg=name)


def test_both_sides_have_the_cases_of_the_command():
    assert set(cases.CASES) == set(BATCHES)
    pytest.importorskip("torch")
    from bench import original_cases

    assert set(original_cases.CASES) == set(BATCHES)


def test_a_case_runs_against_its_own_original(monkeypatch):
    sides = []

    class Fake:
        facts: ClassVar = {"flops": 1e9}

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
    assert [side for _, side in sides] == ["ours", "theirs", "product", "ours", "product"]
    assert [case for case, _ in sides] == ["mae_b"] * 3 + ["vit_b"] * 2


def test_share_of_the_products_of_the_same_run(monkeypatch):
    seconds = {"ours": 4.0, "theirs": 8.0, "product": 1.0}
    flops = {"ours": 2e11, "theirs": None, "product": 1e11}

    class Fake:
        def __init__(self, side, case, args):
            self.facts, self._side = {"flops": flops[side], "framework": "", "device": ""}, side

        def seconds(self, runs):
            return seconds[self._side]

        def close(self):
            pass

    monkeypatch.setattr("bench.run.Worker", Fake)
    monkeypatch.setattr("bench.run.available", lambda variable: True)
    result = compare("mae_b", args := parse(["mae_b", "--rounds=1", "--runs=1", "--batch=1"]))
    assert (result["ours"]["share"], result["theirs"]["share"]) == (0.5, 0.25)
    assert "ours 50%, theirs 25% of the 100 GFLOP/s of products" in report(result)
    args.device = "gpu"
    assert "product" not in compare("mae_b", args)


def test_products_are_counted_and_keep_their_values():
    once, facts = cases.product_case("float32", side=8, count=3)
    np.testing.assert_allclose(once(), 1 / 8, rtol=1e-6)
    assert facts["flops"] == 3 * 2 * 8**3


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


def test_a_stage_on_a_gpu_that_takes_too_long_does_not_lose_the_others(tmp_path, monkeypatch):
    assert sum(stage.seconds for stage in gpu.STAGES.values()) <= 12 * 60
    monkeypatch.setitem(gpu.STAGES, "kernels", gpu.Stage(0.2, gpu.kernels))
    results = gpu.Results(tmp_path / "results")
    options = ["--device=cpu", "--small"]
    assert gpu.run_stages(["kernels", "machine"], results, 100, options) == 1
    assert gpu.run_stages(["steps"], results, 1, options) == 1
    stopped, found, ok, late = results.rows()
    assert stopped["ended"] == "stopped after 0 s"
    assert (found["device"], ok["ended"]) == ("cpu", "ok")
    assert late["ended"].startswith("not started")
    assert "| kernels | stopped after 0 s |" in results.summary.read_text()


def test_a_kernel_of_attention_may_err_twice_as_much_as_written_out_weights(monkeypatch):
    shapes = {"few": (17, 9, 1, 8, 8)}
    assert all(row["within"] for row in gpu_checks.attention_rows(shapes))
    right = chunked.attend
    monkeypatch.setattr(chunked, "attend", lambda q, k, v: 1.02 * right(q, k, v))
    assert not any(row["within"] for row in gpu_checks.attention_rows(shapes))
    monkeypatch.setattr(chunked, "attend", lambda q, k, v: q @ k)
    assert all("failed" in row for row in gpu_checks.attention_rows(shapes))


def test_nan_is_beyond_any_bound():
    assert not gpu_checks.judged(np.copy, [[[np.nan]]], [np.ones(1)], [1.0])["within"]


def test_tables_of_a_run_on_a_gpu():
    side = {"median_s": 0.5, "seconds": [0.5], "compile_s": 20.0, "utilisation": 0.55}
    case = {"stage": "vit_b", "case": "vit_b", "batch": 128, "ours": side, "theirs": side}
    sizes = {"estimated": 2**30, "compiled": 2**30, "measured": 2**31}
    text = gpu.render(
        [
            case | {"ratio": 1.0, "ratio_95": (0.9, 1.1)},
            {"stage": "hog", "case": "hog", "batch": 128, "ours": {"median_s": 0.01}},
            {"stage": "memory_vit_b", "case": "vit_b", "batch": 1, "state": sizes, "peak": sizes},
        ]
    )
    assert "| vit_b, 128 | 500.0 ms | 500.0 ms | 1.00 (0.90 to 1.10) | 55.0% | 20 s |" in text
    assert "| vit_b | 2.00% |" in text
    assert "| vit_b | 1 | 1.00 / 1.00 / 2.00 | 1.00 / 1.00 / 2.00 | 0.50 |" in text
