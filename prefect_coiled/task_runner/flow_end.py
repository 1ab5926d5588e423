"""Gives a task runner the last word before a flow run's final state is set.

Prefect decides the final state of a flow run while the task runner is still open, and closes the
runner afterwards: what a runner learns at its own end (a task that was lost, one that never
finished) comes too late, for the server has the flow run as Completed by then. Prefect has no hook
for that moment, so this module makes one: it wraps the one method of the two flow engines that
turns a flow's return value into a state. Flow runs with other task runners pass through untouched.

It may do nothing else: what "settling" means is the runner's own business.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from functools import wraps
from typing import Any

from prefect.context import FlowRunContext
from prefect.flow_engine import AsyncFlowRunEngine, FlowRunEngine

_MARK = "_prefect_coiled_settles"


class Settles(ABC):
    """A task runner that must see its tasks through before the flow run may end well."""

    @abstractmethod
    def settle(self, returned: Any = None) -> None:
        """Wait until every task has ended; raise when the flow run must not be Completed."""


def _runner() -> Settles | None:
    context = FlowRunContext.get()
    if context is None or context.detached:
        return None
    return context.task_runner if isinstance(context.task_runner, Settles) else None


def install() -> None:
    """Wrap the flow engines, once per process.

    Raises:
        AttributeError: This version of Prefect has no such method to wrap. Better no runner than
            one that reports lost work as done.
    """
    if getattr(FlowRunEngine.handle_success, _MARK, False):
        return
    in_thread, in_loop = FlowRunEngine.handle_success, AsyncFlowRunEngine.handle_success

    @wraps(in_thread)
    def handle_success(self: FlowRunEngine[Any, Any], result: Any) -> Any:
        if runner := _runner():
            runner.settle(result)
        return in_thread(self, result)

    @wraps(in_loop)
    async def ahandle_success(self: AsyncFlowRunEngine[Any, Any], result: Any) -> Any:
        if runner := _runner():
            # A thread, so that the loop goes on while the last tasks end.
            await asyncio.to_thread(runner.settle, result)
        return await in_loop(self, result)

    setattr(handle_success, _MARK, True)
    FlowRunEngine.handle_success = handle_success  # type: ignore[method-assign]
    AsyncFlowRunEngine.handle_success = ahandle_success  # type: ignore[method-assign]
