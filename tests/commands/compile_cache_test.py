from __future__ import annotations

import jax
import pytest

from maskfeat_jax.commands.compile_cache import keep_compiled


@pytest.fixture
def cache_of(monkeypatch, tmp_path):
    """The cache directory that is set with a backend, and with a directory that was set before."""

    def of(backend, before=None):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr("jax.default_backend", lambda: backend)
        usual = jax.config.jax_compilation_cache_dir
        jax.config.update("jax_compilation_cache_dir", before)
        try:
            keep_compiled()
            return jax.config.jax_compilation_cache_dir
        finally:
            jax.config.update("jax_compilation_cache_dir", usual)

    return of


def test_programs_of_accelerators_are_kept(cache_of, tmp_path, capsys):
    assert cache_of("gpu") == str(tmp_path / "cache" / "maskfeat_jax")
    assert not list((tmp_path / "cache" / "maskfeat_jax").iterdir())
    assert cache_of("tpu", before="/elsewhere") == "/elsewhere"
    assert cache_of("cpu") is None
    assert capsys.readouterr().err == ""


def test_a_directory_that_cannot_be_written_is_said(cache_of, tmp_path, capsys):
    (tmp_path / "cache").write_text("")
    assert cache_of("gpu") is None
    assert "warning: compiled programs are not kept, " in capsys.readouterr().err


def test_the_switch_of_jax_turns_it_off(cache_of):
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert cache_of("gpu") is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
