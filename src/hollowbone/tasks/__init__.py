"""Tasks: readers, training Steps, post-processing and a metric for each kind of problem."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from hollowbone.errors import unknown

if TYPE_CHECKING:
    from hollowbone.tasks.base import Task

TASKS: dict[str, str] = {"classification": "hollowbone.tasks.classification.task:Classification"}
"""Where each task's class is; one line a task."""


def list_tasks() -> list[str]:
    """Names of the tasks."""
    return sorted(TASKS)


def get_task(name: str = "classification") -> Task:
    """The task of that name; raises `UserError` naming the nearest if there is none."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    module, _, attribute = TASKS[name].partition(":")
    return getattr(import_module(module), attribute)()
