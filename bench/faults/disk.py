"""A disk that fails on demand, for child processes: `disk.c` compiled, and its rules.

The rules may change while the process runs:

    disk = Disk(folder)
    process = subprocess.Popen(command, env={**os.environ, **disk.environment})
    disk.fail(directory, ops="write", errno=errno.ENOSPC, after=1_000_000)
    disk.heal()
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

SOURCE = pathlib.Path(__file__).with_name("disk.c")
COMPILER = shutil.which("cc")
MISSING = "no C compiler (cc): the disk that fails on demand cannot be built"


class Disk:
    """The rules that a child process's writes follow; `environment` is for that process."""

    def __init__(self, folder: pathlib.Path):
        """Compiles the library into a folder, where the rules will lie too."""
        assert COMPILER is not None, MISSING
        library = folder / "disk.so"
        command = [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)
        self._rules = folder / "disk.rules"
        self.environment = {"LD_PRELOAD": str(library), "MASKFEAT_DISK": str(self._rules)}

    def fail(self, prefix: pathlib.Path, **rules: str | float) -> None:
        """Takes the place of all rules before; `disk.c` lists them.

        Args:
          prefix: what lies below it is meant; as the process names it, links resolved.
          **rules: for instance `ops="write,fsync", errno=errno.EIO, times=1`, or `rate=1e6`.
        """
        rules = {"prefix": str(prefix.resolve()), **rules}
        text = "".join(f"{key} {value}\n" for key, value in rules.items())
        new = self._rules.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        os.replace(new, self._rules)

    def heal(self) -> None:
        self._rules.unlink(missing_ok=True)
