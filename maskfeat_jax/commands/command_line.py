"""Trains or evaluates what a recipe says; checks recipes, data and runs.

    maskfeat --config=configs/smoke.py --workdir=runs/a    (in a checkout also: python main.py ...)

The same command again resumes. --config.SECTION.KEY=VALUE changes the recipe. Other commands are
the first word:
    estimate           parameters, operations and memory of a recipe, here or on a --target
    check-data         reads every example of a recipe's data once
    sweep              runs of changed recipes and several seeds, and a table of their results
    verify-resume      trains a little with and without a kill, and compares to the bit
    verify-checkpoint  compares every file of a work directory's checkpoints with its checksum
    visualize          pictures of what a run makes of files: visualize RUN FILE ... --out=a.png
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from maskfeat_jax.commands import COMMANDS
from maskfeat_jax.commands.options import Options, UsageError
from maskfeat_jax.files import escape_unprintable
from maskfeat_jax.recipes import load, section_of
from maskfeat_jax.sections import RecipeError, nearest
from maskfeat_jax.version import VERSION

# Importing JAX takes seconds: where it is needed, after the first line on the terminal.

_USAGE, _RECIPE = 64, 78  # exit codes
_CHANGE = re.compile(r"--?(?:no)?config\.([^=]*)")
_KEY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
# Flags of one command.
_OWN = {"memory_gb": "estimate", "target": "estimate", "json": "estimate", "share": "sweep"}
_FLAGS = ("workdir", *_OWN)
_PROCESSES = ("distributed", "coordinator", "num_processes", "process_id", "start_seconds")


class CommandLine(NamedTuple):
    """What the command line says.

    Attributes:
      command: its first word; `train` if there is none.
      recipe: the value of `--config`.
      options: the flags, with the recipe as they change it.
    """

    command: str
    recipe: str | None
    options: Options


def main() -> NoReturn:
    """Does what the command line says, and ends the process."""
    escape_unprintable()
    words = sys.argv[1:]
    if words[:1] == ["visualize"]:
        _visualize(words[1:])
    if {"-h", "--help", "--helpfull"} & {*words}:
        print(help_text())
        sys.exit(0)
    try:
        line = parse(words)
    except flags.Error as error:
        _fail(error, _RECIPE if "config." in str(error) else _USAGE)
    except (UsageError, RecipeError) as error:
        _fail(error, _USAGE if isinstance(error, UsageError) else _RECIPE)
    if _is_first_process(line.options):
        print(first_line(line), file=sys.stderr)
    from maskfeat_jax.commands import program

    program.run(line.command, line.options)


def help_text() -> str:
    """What `--help` prints."""
    values = _flags()
    flags.DEFINE_string("config", None, "A recipe: its file, or the name of one.", values)
    lines = [f"    --{name:<15}  {values[name].help}" for name in sorted(values)]
    return "\n".join([f"{__doc__}\nFlags:", *lines])


def parse(arguments: Sequence[str]) -> CommandLine:
    """Reads flags and recipe.

    Args:
      arguments: the words of the command line, without the name of the program.

    Raises:
      flags.Error, UsageError: the command line is wrong.
      RecipeError: there is no such recipe, or it cannot be read, or not be changed like this.
    """
    recipe, rest = _without_recipe(arguments)
    rest = _values_joined(rest)
    changes = [match[1] for match in map(_CHANGE.match, rest) if match]
    if recipe is None and changes:
        raise UsageError(f"--config.{changes[0]} changes a recipe: name one with --config")
    config = None if recipe is None else _recipe_with_sections(recipe, changes)
    values = _flags()
    try:
        if config is not None:
            # Keys that a recipe leaves at their default can be given too: `build` refuses others.
            config_flags.DEFINE_config_dict(
                "config",
                config,
                flag_values=values,
                lock_config=False,
                accept_new_attributes=True,
                sys_argv=rest,
            )
        words = values(rest)[1:]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise RecipeError(f"--config: {' '.join(map(str, error.args))}") from error
    if len(words) > 1 or (words and words[0] not in COMMANDS):
        near = nearest(words[0], [*COMMANDS, "visualize"])
        raise UsageError(f"not understood: {' '.join(words)}{near}")
    processes = {name: values[name].value for name in _PROCESSES}
    processes["timeout_seconds"] = processes.pop("start_seconds")
    given: dict[str, Any] = {name: values[name].value for name in _FLAGS}
    options = Options(config, processes, **given)
    command = words[0] if words else "train"
    for name, of in _OWN.items():
        if command != of and given[name]:
            raise UsageError(f"--{name} is for {of}, not for {command}")
    if command != "verify-checkpoint":
        _ = options.recipe  # raises without one, before the seconds of imports
    return CommandLine(command, recipe, options)


def first_line(line: CommandLine) -> str:
    """What is done: the first line on the terminal, seconds before anything else."""
    config = line.options.config
    does = line.command
    if does == "train" and config is not None:
        does = str(config.get("task", does))
    where = f" in {line.options.workdir}" if line.options.workdir else ""
    return f"maskfeat {VERSION}: {does}{f' {line.recipe}' if line.recipe else ''}{where}"


def _flags() -> flags.FlagValues:
    """All flags but those of the recipe."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Directory of the run.", values)
    flags.DEFINE_float(
        "memory_gb", None, "estimate: memory of a device, 1e9 bytes.", None, None, values
    )
    flags.DEFINE_string("target", None, "estimate: devices, such as v5e:2x4 or h100:8.", values)
    flags.DEFINE_bool("json", False, "estimate: one line of JSON.", values)
    flags.DEFINE_string("share", None, "sweep: share of the rows, such as 2/8.", values)
    flags.DEFINE_bool("distributed", False, "JAX finds the others: Slurm, TPU pod.", values)
    flags.DEFINE_string("coordinator", None, "host:port of process 0.", values)
    flags.DEFINE_integer("num_processes", None, "How many processes there are.", None, None, values)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", None, None, values)
    flags.DEFINE_float("start_seconds", 300.0, "Time for all to come.", None, None, values)
    return values


def _without_recipe(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of `--config`; the name of the program and all other words."""
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "", values)
    rest = values(["maskfeat", *arguments], known_only=True)
    return values["config"].value, rest


def _values_joined(words: Sequence[str]) -> list[str]:
    """Makes `--config.a.b=value` of `--config.a.b value`.

    ml_collections takes keys that are not in the recipe for switches, which have no value.
    """
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined else ""
        is_value = not re.match("--|-[a-zA-Z]", word) and word not in COMMANDS
        if is_value and re.fullmatch(r"--?config\.[^=]+", before):
            joined[-1] = f"{before}={word}"
        else:
            joined.append(word)
    return joined


def _recipe_with_sections(name: str, changes: Sequence[str]) -> ConfigDict:
    """The recipe, with the sections of `section.key` that it does not have."""
    try:
        config = load(name)
    except LookupError as error:
        raise RecipeError(f"--config: {error}") from error
    config.unlock()
    try:
        for change in changes:
            if not _KEY.fullmatch(change):
                raise RecipeError(f"{change}: not a key; expected --config.SECTION.KEY=VALUE")
            section_of(config, change)
    except RecipeError as error:
        raise RecipeError(f"--config.{error}") from error
    return config


def _is_first_process(options: Options) -> bool:
    if options.processes["distributed"]:
        return os.environ.get("SLURM_PROCID", "0") == "0"
    return not options.processes["process_id"]


def _visualize(words: Sequence[str]) -> NoReturn:
    """Runs the command that has flags of its own."""
    if not {"-h", "--help"} & {*words}:
        print(f"maskfeat {VERSION}: visualize {' '.join(words)}", file=sys.stderr)
    from input_pipeline import InputNotInstalled

    try:
        from maskfeat_jax.commands import visualize
    except InputNotInstalled as error:
        _fail(error, _RECIPE)
    visualize.command(words)
    sys.exit(0)


def _fail(error: Exception, code: int) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)
