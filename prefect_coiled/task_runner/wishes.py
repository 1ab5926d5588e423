"""What a task asks of Dask by its tags: where it runs, and how soon.

    dask:priority=10          before others that wait; Dask's default is 0
    dask:resources=GPU=1,X=2  only on workers that have these, as the cluster's `worker_resources` say
    dask:workers=NAME         only there: a worker's name or address, or several, by commas
    dask:again                may be run again, if its result is lost with its worker

Tags rather than an argument of ours, so that a task runs on any task runner. `dask.annotate` holds as well,
and a tag comes before it. See https://distributed.dask.org/en/stable/resources.html.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask
from prefect.context import TagsContext
from prefect.tasks import Task

from prefect_coiled.errors import OptionsError

_PREFIX = "dask:"


@dataclass(frozen=True)
class Wishes:
    """What a task asks of Dask.

    Attributes:
        again: Whether it may be run again if its result is lost.
    """

    annotations: dict[str, Any]
    again: bool


def wishes_of(task: Task[Any, Any]) -> Wishes:
    """What a task's tags and those in force here ask, and `dask.annotate`.

    Raises:
        OptionsError: A tag that begins with "dask:" says nothing that is known.
    """
    annotations, again = dict(dask.get_annotations()), False
    tags = task.tags | TagsContext.get().current_tags
    for tag in sorted(tag for tag in tags if tag.startswith(_PREFIX)):
        name, _, value = tag.removeprefix(_PREFIX).partition("=")
        if name == "again" and not value:
            again = True
        elif name in _READ and value:
            annotations[name] = _read(tag, name, value)
        else:
            known = ", ".join(f"{_PREFIX}{known}=..." for known in _READ)
            raise OptionsError(
                f"tag {tag!r} of task {task.name!r}", "is not known", f"Known: {known}, dask:again."
            )
    return Wishes(annotations, again)


def _read(tag: str, name: str, value: str) -> Any:
    try:
        return _READ[name](value)
    except ValueError as error:
        raise OptionsError(f"tag {tag!r}", str(error)) from error


def _resources(value: str) -> dict[str, float]:
    pairs = [part.partition("=") for part in value.split(",")]
    return {name.strip(): float(amount or "1") for name, _, amount in pairs}


_READ: dict[str, Callable[[str], Any]] = {
    "priority": int,
    "resources": _resources,
    "workers": lambda value: [part.strip() for part in value.split(",")],
}
