"""The examples of docs/launch, with stand-ins for the programs of a cluster."""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest

from tests.recipes import ROOT

LAUNCH = ROOT / "docs" / "launch"


def launch(script: str, folder: pathlib.Path, programs: dict[str, str], *words: str, **env: str):
    """Runs a script; what it printed, and what the programs were called with, a line each."""
    calls = folder / "calls"
    for name, does in programs.items():
        (folder / name).write_text(f'#!/bin/bash\nprintf "%s\\n" "{name} $*" >> {calls}\n{does}\n')
        (folder / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(LAUNCH / script), *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), **env},
    )
    return done, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [
        *((code, 3, True) for code in (1, 75, 134, 137, 143)),
        *((75, 50, False), (78, 0, False), (0, 0, False)),
    ],
)
def test_slurm_starts_again_what_can_go_on(tmp_path, code, restarts, again):
    env = {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": str(restarts), "http_proxy": "p:1"}
    programs = {"srun": f'[ -z "$http_proxy" ] || exit 1\nexit {code}', "scontrol": ""}
    words = ("configs/smoke.py", "runs/a b", "--config.seed=1")
    done, calls = launch("slurm.sh", tmp_path, programs, *words, **env)
    assert done.returncode == (0 if again else code), done.stderr
    assert "main.py --config=configs/smoke.py --workdir=runs/a b --distributed" in calls[0]
    assert calls[0].endswith("--config.seed=1")
    assert calls[1:] == (["scontrol requeue 17"] if again else [])


def test_slurm_starts_again_after_three_hangs_in_a_row_but_not_more(tmp_path):
    def requeued(code):
        programs = {"srun": f"exit {code}", "scontrol": ""}
        (tmp_path / "calls").unlink(missing_ok=True)
        _, calls = launch("slurm.sh", tmp_path, programs, "c.py", "runs/a", SLURM_JOB_ID="17")
        return len(calls) == 2

    assert [requeued(code) for code in (1, 1, 1, 75)] == [True] * 4
    assert [requeued(1) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    "codes", [(1, 1, 134, 1, 1, 1, 1), (137, 143, 78), (255,), (75, 75, 0)], ids=str
)
def test_a_pod_is_started_again_where_it_helps_with_the_same_command(tmp_path, codes):
    coded = f'echo x >> "$0.count"; codes=(0 {" ".join(map(str, codes))})\n'
    coded += 'exit "${codes[$(wc -l < "$0.count")]}"'
    words = ("pod1", "zone1", "configs/smoke.py", "/shared/runs/a b", "--config.seed=1")
    done, calls = launch("tpu_pod.sh", tmp_path, {"gcloud": coded, "sleep": ""}, *words)
    assert done.returncode == codes[-1], done.stderr
    starts = [call for call in calls if call.startswith("gcloud")]
    assert starts == [starts[0]] * len(codes)
    assert "ssh pod1 --zone=zone1 --worker=all" in starts[0]
    assert r"--workdir=/shared/runs/a\ b --distributed --config.seed=1" in starts[0]


@pytest.mark.parametrize("script", ["slurm.sh", "tpu_pod.sh"])
def test_too_few_words_are_a_usage_error(tmp_path, script):
    done, calls = launch(script, tmp_path, {}, "only_one")
    assert (done.returncode, calls) == (64, [])
    assert "usage:" in done.stderr
