"""What the command line says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from maskfeat_jax.files import local_path


class UsageError(ValueError):
    """The command line is wrong; says what to change."""


class CannotVerify(RuntimeError):
    """A run ended in another way than it should have, so that nothing can be compared."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of `main.py`.

    Attributes:
      config: `--config`, with what the command line changes in it.
      processes: arguments of `distributed.start.start`.
      workdir: `--workdir`.
      memory_gb: `--memory_gb`.
      target: `--target`, see `hardware.hardware`.
      json: `--json`.
      share: `--share`, see `sweep.share_of`.
    """

    config: Any
    processes: dict[str, Any]
    workdir: str | None = None
    memory_gb: float | None = None
    target: str | None = None
    json: bool = False
    share: str | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe."""
        if self.config is None:
            raise UsageError("--config is missing: name a recipe, such as configs/smoke.py")
        return self.config.to_dict()

    @property
    def directory(self) -> Path:
        """The work directory."""
        if not self.workdir:
            raise UsageError("--workdir is missing: name the directory of the run")
        try:
            return local_path(self.workdir)
        except ValueError as error:
            raise UsageError(f"--workdir: {error}") from error
