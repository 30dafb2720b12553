"""JAX's cache of compiled programs, on by default."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import jax


def keep_compiled() -> None:
    """Keeps compiled programs of accelerators in the user's cache directory.

    `JAX_COMPILATION_CACHE_DIR` names another one, `JAX_ENABLE_COMPILATION_CACHE=0` keeps none. CPUs
    are left out: their programs run only on processors with the same instructions.
    """
    config: Any = jax.config  # whose attributes JAX makes at run time
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    if jax.default_backend() == "cpu":
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskfeat_jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".{os.getpid()}").touch()
        (folder / f".{os.getpid()}").unlink()
    except OSError as error:
        print(
            f"warning: compiled programs are not kept, {error}; set JAX_COMPILATION_CACHE_DIR",
            file=sys.stderr,
        )
        return
    config.update("jax_compilation_cache_dir", str(folder))
