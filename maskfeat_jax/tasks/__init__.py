"""What can be done with a model: a task owns its steps, its checks, its data needs, its pictures.

To add one: a subclass of `Task` in a file of its own, and its line in `TASKS`.
"""

from __future__ import annotations

from maskfeat_jax.models import MODELS
from maskfeat_jax.sections import Reader, member
from maskfeat_jax.tasks.base import Task
from maskfeat_jax.tasks.classify import Finetune, Probe
from maskfeat_jax.tasks.knn import Knn
from maskfeat_jax.tasks.pretrain import Pretrain

__all__ = ["TASKS", "Finetune", "Knn", "Pretrain", "Probe", "Task", "task_of"]

TASKS: dict[str, type[Task]] = {
    "finetune": Finetune,
    "knn": Knn,
    "pretrain": Pretrain,
    "probe": Probe,
}


def task_of(reader: Reader) -> type[Task]:
    """The class of `TASKS` that a recipe names; "evaluate" is that of the head it evaluates.

    Raises:
      RecipeError: there is no such task or head.
    """
    if reader["task"] != "evaluate":
        return member("task", {**TASKS, "evaluate": Task}, reader["task"])
    head = reader["head"].get("name", "")
    member("head.name", MODELS, head)
    return next(task for task in TASKS.values() if head in task.heads)
