"""The commands of `maskfeat`: a module each, with a function `command`."""

from __future__ import annotations

# Imported when they run. `visualize` has flags of its own: see command_line.py.
COMMANDS = ("check-data", "estimate", "sweep", "train", "verify-checkpoint", "verify-resume")
