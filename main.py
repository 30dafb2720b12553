"""Trains or evaluates what a recipe says; checks recipes, data and runs.

    python main.py --config=configs/smoke.py --workdir=runs/a
    python main.py --help

The command `maskfeat` of the installed package is the same.
"""

from maskfeat_jax.commands.command_line import main

if __name__ == "__main__":
    main()
