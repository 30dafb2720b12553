"""Trains or evaluates what a recipe says; checks recipes, data and runs.

    python main.py --config=configs/smoke.py --workdir=runs/a

The same command again resumes. Before it, any of these words:
    estimate           parameters, operations and memory of a recipe
    check-data         reads every example of a recipe's data once
    verify-resume      trains a little with and without a kill, and compares to the bit
    verify-checkpoint  compares every file of a work directory's checkpoints with its checksum
    visualize          pictures of what a run makes of files: visualize RUN FILE ... --out=a.png
"""

from __future__ import annotations

import sys

from absl import app, flags
from ml_collections import config_flags

from maskfeat_jax.commands import program, visualize
from maskfeat_jax.commands.options import Options

# Keys that a recipe leaves at their default can be given as well: `build` refuses unknown ones.
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The recipe.", lock_config=False, accept_new_attributes=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_MEMORY_GB = flags.DEFINE_float("memory_gb", None, "estimate: memory of a device, 1e9 bytes.")
_PROCESSES = {
    "distributed": flags.DEFINE_bool("distributed", False, "JAX finds the others: Slurm, TPU pod."),
    "coordinator": flags.DEFINE_string("coordinator", None, "host:port of process 0."),
    "num_processes": flags.DEFINE_integer("num_processes", None, "How many processes there are."),
    "process_id": flags.DEFINE_integer("process_id", None, "Which of them this is, from 0."),
    "timeout_seconds": flags.DEFINE_float("start_seconds", 300.0, "Time for all to come."),
}


def main(argv: list[str]) -> None:
    """Does what the command line says."""
    processes = {name: flag.value for name, flag in _PROCESSES.items()}
    program.run(argv[1:], Options(_CONFIG.value, _WORKDIR.value, processes, _MEMORY_GB.value))


def parse(argv: list[str]) -> list[str]:
    """Reads flags and recipe; ends the process with a sentence where that fails."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        message, code = str(error), 78 if "config." in str(error) else 64
    except (KeyError, AttributeError) as error:  # a section that the recipe does not have
        message, code = f"--config: {error.args[0]}", 78
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1:2] == ["visualize"]:  # it has flags of its own
        visualize.command(sys.argv[2:])
    else:
        app.run(main, flags_parser=parse)
