"""What a worker needs of the flow that a task belongs to: its name and its settings, not its body.

The body stays with the flow run. It may close over what cannot be sent, such as a lock or a connection.
"""

from __future__ import annotations

import copy
from typing import Any

from prefect.flows import Flow

_HOOKS = "on_completion", "on_failure", "on_cancellation", "on_crashed", "on_running"
# What `functools.update_wrapper` took from the body.
_FROM_BODY = "__wrapped__", "__annotations__", "__type_params__"


class FlowBody:
    """Stands for a flow's function where that is not."""

    def __init__(self, module: str, qualname: str, doc: str | None = None) -> None:
        self.__module__, self.__qualname__, self.__doc__ = module, qualname, doc
        self.__name__ = qualname.rpartition(".")[2]

    def __reduce__(self) -> Any:
        return FlowBody, (self.__module__, self.__qualname__, self.__doc__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Say what to do instead."""
        raise RuntimeError(
            f"The body of the flow {self.__qualname__!r} is not on a worker. Call the flow by its own name, "
            "or through a deployment."
        )


def identity_of(flow: Flow[Any, Any]) -> Flow[Any, Any]:
    """A copy of a flow for workers: its name, its version, its settings and its task runner."""
    made = copy.copy(flow)
    function: Any = flow.fn
    name = getattr(function, "__qualname__", None) or flow.name
    made.fn = FlowBody(getattr(function, "__module__", None) or "", name, flow.description)
    for hook in _HOOKS:
        setattr(made, f"{hook}_hooks", [])
    for name in _FROM_BODY:
        made.__dict__.pop(name, None)
    if not isinstance(made.flow_run_name, str):
        made.flow_run_name = None
    return made
