"""Tasks: what is done with a model. A task has its steps, checks, data needs and pictures.

To add one: a subclass of `Task` in a file of its own, and its line in `TASKS`.
"""

from __future__ import annotations

from maskfeat_jax.models import MODELS
from maskfeat_jax.sections import Reader, member
from maskfeat_jax.tasks.base import Task
from maskfeat_jax.tasks.classify import Finetune, Probe
from maskfeat_jax.tasks.detect import Detect
from maskfeat_jax.tasks.knn import Knn
from maskfeat_jax.tasks.pretrain import Pretrain

__all__ = ["TASKS", "Detect", "Finetune", "Knn", "Pretrain", "Probe", "Task", "task_of"]

TASKS: dict[str, type[Task]] = {
    "detect": Detect,
    "finetune": Finetune,
    "knn": Knn,
    "pretrain": Pretrain,
    "probe": Probe,
}


def task_of(reader: Reader) -> type[Task]:
    """The class of `TASKS` for a recipe; for "evaluate" it follows from the head.

    Raises:
      RecipeError: there is no such task or head.
    """
    if reader["task"] != "evaluate":
        return member("task", {**TASKS, "evaluate": Task}, reader["task"])
    head = reader["head"].get("name", "")
    member("head.name", MODELS, head)
    return next(task for task in TASKS.values() if head in task.heads)
