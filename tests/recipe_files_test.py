"""Loading a recipe: which file is meant, and what is said of one that is no recipe."""

from __future__ import annotations

import pytest

from maskfeat_jax.recipes import SHIPPED, RecipeNotFound, load
from maskfeat_jax.sections import RecipeError

HEAD = "from ml_collections import ConfigDict\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["smoke", "smoke.py", "configs/smoke.py", str(SHIPPED / "smoke.py")]
)
def test_recipes_of_the_package_are_found_from_anywhere(name, folder):
    assert load(name).task == "pretrain"


def test_sweeps_are_found_by_their_folder(folder):
    assert load("sweeps/demo").stages == load("configs/sweeps/demo.py").stages


@pytest.mark.parametrize("name", ["smok", "mine/smoke.py", "common", "__init__", ".", ""])
def test_others_are_not_taken_for_them(name, folder):
    with pytest.raises(RecipeNotFound, match=r"does not exist; .*[Cc]hoices: .*smoke"):
        load(name)


def test_the_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "a.py").write_text(f"{HEAD}def get_config(): return ConfigDict(dict(task='a'))")
    assert load("~/a.py").task == "a"


def test_a_file_comes_before_a_recipe_of_the_package(folder):
    (folder / "smoke.py").write_text(f"{HEAD}def get_config(): return ConfigDict(dict(task='a'))")
    assert load("smoke.py").task == "a"
    assert load("smoke").task == "pretrain"


def test_a_recipe_may_define_classes(folder):
    text = "from __future__ import annotations\nimport dataclasses\n" + HEAD
    text += "@dataclasses.dataclass\nclass Mine:\n    size: int = 3\n\n"
    (folder / "a.py").write_text(
        f"{text}def get_config(): return ConfigDict(dict(seed=Mine().size))"
    )
    assert load("a.py").seed == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nowhere", r"a\.py, line 1: ModuleNotFoundError: No module named 'nowhere'"),
        ("\ndef get_config(:", r"a\.py, line 2: SyntaxError: invalid syntax"),
        ("def get_config():\n    return {}['b']", r"a\.py, line 2: KeyError: 'b'"),
        ("x = '\0'", r"a\.py: SyntaxError: source code string cannot contain null bytes"),
        (
            "from ml_collections import config_dict as c\ndef get_config():\n"
            "    return c.ConfigDict(dict(task='pretrain', x=c.required_placeholder(str)))",
            r"a\.py: RequiredValueError: None value found in required reference",
        ),
        ("def get_config():\n    return 3 / 0", r"a\.py, line 2: ZeroDivisionError: division"),
        ("def get_config():\n    pass", r"a\.py: get_config returned None, not a ConfigDict"),
        ("seed = 3", r"a\.py has no function get_config, so it is not a recipe"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said_with_its_place(text, words, folder):
    (folder / "a.py").write_text(text)
    with pytest.raises(RecipeError, match=words):
        load("a.py")


def test_what_a_recipe_says_itself_is_passed_on(folder):
    (folder / "a.py").write_text("def get_config(size): raise LookupError(f'no size {size}')")
    with pytest.raises(LookupError, match="^no size b16$"):
        load("a.py:b16")


def test_a_size_where_there_are_none(folder):
    with pytest.raises(RecipeNotFound, match="smoke has no sizes, and 'b16' was given"):
        load("smoke:b16")


def test_a_run_and_other_files_are_no_recipes(folder):
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text("{}")
    with pytest.raises(RecipeNotFound, match="run is the directory of a run; expected a recipe"):
        load("run")
    (folder / "vit.safetensors").write_bytes(b"")
    with pytest.raises(RecipeNotFound, match="vit.safetensors is not a recipe"):
        load("vit.safetensors")
