"""What the command line says, and what a wrong one gets."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from absl import flags

from maskfeat_jax.commands import command_line
from maskfeat_jax.commands.command_line import first_line, help_text, parse
from maskfeat_jax.commands.options import UsageError
from maskfeat_jax.sections import RecipeError
from maskfeat_jax.version import VERSION
from tests.recipes import ROOT


def test_words_and_flags_in_any_order():
    words = ["--workdir", "runs/a", "estimate", "--config", "smoke", "--memory_gb=80", "--json"]
    line = parse([*words, "--target=v5e:2x4"])
    assert (line.command, line.recipe) == ("estimate", "smoke")
    assert (line.options.workdir, line.options.memory_gb) == ("runs/a", 80.0)
    assert (line.options.target, line.options.json) == ("v5e:2x4", True)
    assert line.options.recipe["task"] == "pretrain"
    assert not line.options.processes["distributed"]
    assert line.options.processes["timeout_seconds"] == 300
    line = parse(["--distributed", "--process_id=3", "verify-checkpoint", "--start_seconds=7"])
    assert (line.command, line.recipe, line.options.config) == ("verify-checkpoint", None, None)
    processes = {"distributed": True, "process_id": 3, "timeout_seconds": 7.0}
    assert processes.items() <= line.options.processes.items()


@pytest.mark.parametrize(
    ("words", "section", "key", "value"),
    [
        (["--config.optim.lr=1"], "optim", "lr", 1.0),
        (["--config.optim.lr", "1e-3"], "optim", "lr", 1e-3),
        (["-config.run.batch_size=8"], "run", "batch_size", 8),
        (["--config.model.tubelet=(1, 8, 8)"], "model", "tubelet", (1, 8, 8)),
        (["--config.model.encoder=vit_b16"], "model", "encoder", "vit_b16"),
        # Keys that the recipe leaves at their default.
        (["--config.model.scan"], "model", "scan", True),
        (["--noconfig.model.scan"], "model", "scan", False),
        (["--config.model.attention=None"], "model", "attention", None),
        (["--config.view.scale_jitter=(32, 40)"], "view", "scale_jitter", (32, 40)),
        (["--config.data.path=/data/a b"], "data", "path", "/data/a b"),
        # Sections that it does not have.
        (["--config.knn.k=5", "--config.knn.temperature=0.1"], "knn", "k", 5),
        (["--config.mix.mixup", "0.8"], "mix", "mixup", 0.8),
        (["--config.optim.b1", "-1"], "optim", "b1", -1),
        (["--config.maks.ratio=0.1"], "maks", "ratio", 0.1),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_flags_change_the_recipe(words, section, key, value, first):
    config = ["--config=configs/smoke.py"]
    recipe = parse(config + words if first else words + config).options.recipe
    assert recipe[section][key] == value
    assert type(recipe[section][key]) is type(value)


def test_a_section_that_is_none_counts_as_missing(tmp_path):
    file = tmp_path / "a.py"
    text = "from ml_collections import ConfigDict\ndef get_config():\n    "
    file.write_text(f"{text}return ConfigDict(dict(task='pretrain', mix=None)).lock()")
    recipe = parse([f"--config={file}", "--config.mix.mixup=0.5"]).options.recipe
    assert recipe["mix"] == {"mixup": 0.5}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 64, "--config is missing: name a recipe, such as configs/smoke.py"),
        (["estimate", "--workdir=a"], 64, "--config is missing"),
        (["estimat"], 64, "not understood: estimat; did you mean 'estimate'"),
        (["estimate", "more"], 64, "not understood: estimate more"),
        (["--workdri=a"], 64, "Unknown command line flag 'workdri'. Did you mean: workdir"),
        (["--config=smoke", "--target=h100:8"], 64, "--target is for estimate, not for train"),
        (["check-data", "--config=smoke", "--json"], 64, "--json is for estimate"),
        (["--memory_gb=many"], 64, "flag --memory_gb=many"),
        (["--config"], 64, "Missing value for flag --config"),
        (["--config.seed=1"], 64, r"--config\.seed changes a recipe: name one with --config"),
        (["--config=smok"], 78, "--config: smok does not exist; did you mean 'smoke'"),
        (["--config=smoke:b16"], 78, "--config: smoke has no sizes"),
        (["--config=smoke", "--config.model.width=x"], 78, r"--config\.model\.width=x: invalid"),
        (["--config=smoke", "--config.task.x=1"], 78, r"task\.x: task='pretrain' has no keys"),
        (["--config=smoke", "--config.mask.1=1"], 78, r"--config\.mask\.1: not a key; expected"),
        (["--config=smoke", "--config.a..b=1"], 78, r"--config\.a\.\.b: not a key; expected"),
        (["--config=smoke", "--config.=1"], 78, r"--config\.: not a key; expected --config\.SEC"),
        (["--config=smoke", "--config.model.tubelet[9]=1"], 78, r"tubelet\[9\]: not a key"),
        (["--config=smoke", "--config.run=3"], 78, r"--config\.run=3: .* `3` is not a dict"),
    ],
)
def test_a_wrong_command_line_gets_a_sentence_and_a_code(words, code, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["maskfeat", *words])
    with pytest.raises((flags.Error, UsageError, RecipeError), match=message):
        parse(words)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == code
    out, error = capsys.readouterr()
    assert (out, error.count("\n"), error[:7]) == ("", 1, "error: ")


def test_the_work_directory_is_a_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(parse(["--config=smoke", "--workdir=~/a"]).options.directory) == "/home/me/a"
    for value, message in [
        ("gs://bucket/run", "--workdir: gs://bucket/run is a URL; expected a path"),
        ("file:///run", "--workdir: file:///run is a URL; expected a path"),
        ("", "--workdir is missing: name the directory of the run"),
    ]:
        with pytest.raises(UsageError, match=message):
            _ = parse(["verify-checkpoint", f"--workdir={value}"]).options.directory


def test_a_recipe_is_no_url():
    with pytest.raises(RecipeError, match=r"--config: https://x/y.py is a URL; expected a file"):
        _ = parse(["--config=https://x/y.py", "--workdir=runs/a"]).options.recipe


def test_visualize_needs_the_folder_of_its_picture(tmp_path, capsys):
    from maskfeat_jax.commands import visualize

    with pytest.raises(SystemExit) as ended:
        visualize.command(["runs/a", "a.png", f"--out={tmp_path}/none/a.png"])
    assert ended.value.code == 2
    assert "none/a.png: its folder does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["gs://b/run", "a.png"], ["runs/a", "gs://b/a.png"]])
def test_visualize_takes_no_urls(arguments, capsys):
    from maskfeat_jax.commands import visualize

    with pytest.raises(SystemExit) as ended:
        visualize.command(arguments)
    assert ended.value.code == 2
    assert "is a URL; expected a path" in capsys.readouterr().err


def test_help_names_every_flag_and_command(monkeypatch, capsys):
    text = help_text()
    for word in ("--config ", "--workdir ", "--coordinator ", "verify-resume ", "visualize "):
        assert word in text
    monkeypatch.setattr(sys, "argv", ["maskfeat", "--help"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert (ended.value.code, capsys.readouterr().out) == (0, f"{text}\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--config=smoke", "--workdir=runs/a"], "pretrain smoke in runs/a"),
        (["estimate", "--config=configs/smoke.py"], "estimate configs/smoke.py"),
        (["--config=smoke", "--workdir=a", "--config.task=evaluate"], "evaluate smoke in a"),
        (["verify-checkpoint", "--workdir=runs/a"], "verify-checkpoint in runs/a"),
    ],
)
def test_first_line(words, line):
    assert first_line(parse(words)) == f"maskfeat {VERSION}: {line}"


def run(*words: str, stubs: os.PathLike[str], **env: str) -> subprocess.CompletedProcess:
    """`main.py` where some packages are others."""
    env = {**os.environ, "PYTHONPATH": str(stubs), **env}
    command = [sys.executable, str(ROOT / "main.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


SMOKE = ("--config=smoke", "--workdir=nowhere")


def test_the_first_line_comes_before_jax_is_imported_and_only_once(tmp_path):
    for package in ("jax", "tensorflow", "numpy", "cv2"):
        (tmp_path / f"{package}.py").write_text(f"raise SystemExit('importing {package}')")
    line = f"maskfeat {VERSION}: pretrain smoke in nowhere"
    for words, more in [
        ((), {}),
        (("--process_id=0",), {}),
        (("--distributed",), {}),
        (("--distributed",), {"SLURM_PROCID": "0"}),
    ]:
        done = run(*SMOKE, *words, stubs=tmp_path, **more)
        assert done.stderr.splitlines() == [line, "importing jax"]
        assert done.stdout == ""
    for words, more in [(("--process_id=1",), {}), (("--distributed",), {"SLURM_PROCID": "2"})]:
        done = run(*SMOKE, *words, stubs=tmp_path, **more)
        assert done.stderr.splitlines() == ["importing jax"]


@pytest.fixture
def bare(tmp_path):
    """Stands for an environment without what reads images and videos."""
    for package in ("cv2", "av", "tensorflow"):
        text = f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')"
        (tmp_path / f"{package}.py").write_text(text)
    return tmp_path


@pytest.mark.parametrize("words", [SMOKE, ("estimate", "--config=smoke"), ("visualize", "a", "b")])
def test_without_the_input_a_sentence_says_what_to_install(words, bare):
    done = run(*words, stubs=bare)
    assert done.returncode == 78
    assert done.stderr.splitlines()[0].startswith(f"maskfeat {VERSION}: ")
    [error] = done.stderr.splitlines()[1:]
    assert error.startswith(
        'error: reading images and videos needs: pip install "maskfeat_jax[input]"'
    )


def test_what_does_not_read_media_works_without_the_input(bare, tmp_path):
    done = run("verify-checkpoint", f"--workdir={tmp_path}", stubs=bare)
    assert done.returncode == 74
    assert "contains no checkpoint" in done.stderr
    code = "import input_pipeline, maskfeat_jax, maskfeat_jax.convert as c, maskfeat_jax.models\n"
    code += "c.load; input_pipeline.BadInputs\n"
    code += "try: input_pipeline.Loader\n"
    code += "except input_pipeline.InputNotInstalled as error: print(error)"
    env = {**os.environ, "PYTHONPATH": f"{bare}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.startswith("reading images and videos needs"), done.stderr
