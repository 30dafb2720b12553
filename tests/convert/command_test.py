"""The command, and runs that start from files of PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from maskfeat_jax import convert
from maskfeat_jax.checkpoints.pretrained import load_params
from maskfeat_jax.commands.train import run_recipe
from maskfeat_jax.convert import stablehlo
from maskfeat_jax.convert.__main__ import main as command
from maskfeat_jax.training.build import build
from maskfeat_jax.training.initial import initial_params
from maskfeat_jax.transfer import TransferError
from tests.convert.models import assert_same, small
from tests.recipes import ROOT, shrunken

FINETUNE = "finetune_vit_in1k:b16"
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("torch", "tensorflow"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from maskfeat_jax.convert.__main__ import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def finetuned(finished_run, tmp_path_factory):
    """A fine-tuning, and the folder that it is exported to."""
    run, results = finished_run(FINETUNE)
    exported = tmp_path_factory.mktemp("exported") / "timm"
    command([str(run), str(exported), "--to=timm"])
    return run, exported, results


def test_a_run_goes_to_timm_and_back_and_is_the_same(finetuned, tmp_path, capsys):
    run, exported, results = finetuned
    command([str(exported), str(tmp_path / "back")])
    text = capsys.readouterr().out
    assert "layout timm, head classifier" in text
    assert "checkpoints" in text
    assert_same(load_params(tmp_path / "back").params, load_params(run).params)
    recipe = shrunken(FINETUNE)
    recipe["task"] = "evaluate"
    for source in (exported / "model.safetensors", tmp_path / "back"):
        recipe["model"]["init_from"] = str(source)
        assert run_recipe(recipe, tmp_path / source.name / "evaluation") == results


def test_the_description_of_an_export_names_its_origin(finetuned):
    run, exported, _ = finetuned
    document = json.loads((exported / "maskfeat_jax.json").read_text())
    assert document["layout"] == "timm"
    assert document["origin"] == f"{run}, step 6"
    recipe = json.loads((run / "config.json").read_text())
    assert document["recipe"]["optim"] == recipe["optim"]
    assert set(document["sha256"]) == {"model.safetensors", "config.json"}
    assert len(document["class_names"]) == 10


def test_finetuning_starts_from_a_file_of_pytorch(tmp_path):
    """Only the encoder, as from a run; another size of images when asked."""
    trained = small("mae")
    convert.write(trained, tmp_path / "hf", "hf")
    recipe = shrunken(FINETUNE)
    recipe["model"] |= {"width": 32, "depth": 2, "heads": 2, "init_from": str(tmp_path / "hf")}
    recipe["run"]["epochs"] = 1
    with pytest.raises(TransferError, match=r"pos_embed.*model\.init_resize=True"):
        run_recipe(recipe, tmp_path / "without")
    recipe["model"]["init_resize"] = True
    experiment = build(recipe)
    params = initial_params(experiment.task, experiment.seed, experiment.init_from)
    block = trained.params["encoder"]["blocks"]["1"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(params["encoder"]["blocks"]["1"]["mlp"]["fc1"]["kernel"], block)
    expected = convert.resized(trained, (1, 32, 32)).params["encoder"]["pos_embed"]
    np.testing.assert_array_equal(params["encoder"]["pos_embed"], expected)


def test_stablehlo_gives_the_same_logits(finetuned, tmp_path):
    run, exported, _ = finetuned
    command([str(exported), str(tmp_path / "out"), "--to=stablehlo"])
    trained = convert.load(run)
    video = np.random.default_rng(0).integers(0, 256, (3, *trained.clip, 3), np.uint8)
    found = stablehlo.load(tmp_path / "out" / "model.stablehlo")(video)
    expected = trained.model.apply({"params": trained.params}, trained.normalise(video))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("nothing", 65, "nothing: no such file or directory"),
        ("gs://b/a.pth", 2, "gs://b/a.pth is a URL; expected a path"),
        ("{run} gs://b/vit --to=timm", 2, "gs://b/vit is a URL; expected a path"),
        ("{run} {run} --to=timm", 65, "already exists"),
        ("{run} {new} --to=torchvision", 65, "cannot hold this model"),
        ("{run} --from=timm", 65, "layout: only for PyTorch files"),
        ("{run} --resize 1 33 32", 65, "33"),
        ("{run} --heads 3", 65, "heads: only for PyTorch files"),
        ("{run} {new} --verify", 65, "neither the source nor the result is a PyTorch file"),
        ("{run} {run}/config.json/x --to=timm", 74, "config.json"),
    ],
)
def test_errors_are_one_clear_sentence(words, code, text, finetuned, tmp_path, capsys):
    places = {"run": finetuned[0], "new": tmp_path / "new"}
    with pytest.raises(SystemExit) as caught:
        command([word.format(**places) for word in words.split()])
    assert caught.value.code == code
    assert text in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_command_runs_without_pytorch_and_tensorflow(finetuned):
    """PyTorch is an extra; TensorFlow has nothing to do here."""
    words = [sys.executable, "-c", WITHOUT, str(finetuned[1])]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "num_classes=10" in done.stdout
