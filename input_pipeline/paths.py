"""Paths that a user gives."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

# One slash, as `Path` makes of two.
_URL = re.compile("[a-zA-Z][a-zA-Z0-9+.-]+:/")


class NotLocal(argparse.ArgumentTypeError, ValueError):
    """A URL where a path is expected; argparse prints the message."""


def local_path(path: str | os.PathLike[str]) -> Path:
    """A path of the file system, with `~` expanded; also the `type` of a command's argument.

    Raises:
      NotLocal: a URL such as `gs://bucket/run`, which the file system would take for a folder.
    """
    text = os.fspath(path)
    if _URL.match(text):
        raise NotLocal(
            f"{text} is a URL; expected a path of the file system (mount a bucket, or copy it)"
        )
    return Path(os.path.expanduser(text))


def relative(path: str, root: str) -> str:
    """The path from a root, of one that is relative to it or absolute."""
    return os.path.relpath(os.path.join(root, path), root)
