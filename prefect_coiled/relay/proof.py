"""Proves that what a request names is the flow run's own: by what is known, or by what the API says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID

from prefect_coiled.relay.needs import Needs, RefusedError
from prefect_coiled.relay.ownership import Own

# Asks the API: method, path, body; gives what it answered, or None where it knows no such thing.
Read = Callable[[str, str, Any], Awaitable[Any]]

# Task runs in a question: https://docs.prefect.io/v3/api-ref/rest-api/server/task-runs/read-task-runs.
_IDS = 200
# Subflows of subflows that are looked through for a flow run that was not made through this relay.
_DEPTH = 8


class Proof:
    """Proves for one flow run.

    Args:
        read: Asks the API, without rules.
    """

    def __init__(self, own: Own, read: Read) -> None:
        self._own, self._read = own, read
        self._above: set[UUID] | None = None

    async def prove(self, needs: Needs, reading: bool = False) -> None:
        """Return if all that is needed is the flow run's own.

        Args:
            reading: Whether it is a run that is read: what the flow run is a subflow of may be, too.

        Raises:
            RefusedError: Something is somebody else's.
        """
        own = self._own
        if needs.without_flow_run and own.flow_run is not None:
            raise RefusedError(403, "The relay of a flow run takes nothing that belongs to no flow run.")
        for kind, ids, known in (
            ("flow", needs.flows, own.flows),
            ("deployment", needs.deployments, own.deployments),
            ("work queue", needs.work_queues, own.work_queues),
            ("work pool", needs.work_pools, own.work_pools),
        ):
            for id_ in ids:
                if id_ not in known:
                    raise _foreign(kind, id_)
        for flow_run in needs.flow_runs:
            if not await self.owns_flow_run(flow_run) and not (reading and await self._is_above(flow_run)):
                raise _foreign("flow run", flow_run)
        await self._task_runs(needs.task_runs, reading)
        for artifact in needs.artifacts:
            if artifact not in own.artifacts:
                found = await self._read("GET", f"/artifacts/{artifact}", None)
                # One that is not there is for the API to say.
                if found is not None and not await self._is_of_own(found):
                    raise _foreign("artifact", artifact)

    async def owns_flow_run(self, flow_run: UUID, depth: int = _DEPTH) -> bool:
        """Whether it is this one, or a subflow of it, at whatever depth."""
        if flow_run == self._own.flow_run or flow_run in self._own.flow_runs:
            return True
        if not depth:
            return False
        found = await self._read("GET", f"/flow_runs/{flow_run}", None)
        return found is not None and await self.adopt(found, depth - 1)

    async def adopt(self, flow_run: dict[str, Any], depth: int = _DEPTH) -> bool:
        """Whether a flow run that the API told of is the flow run's own, which is kept in mind."""
        id_, parent = UUID(flow_run["id"]), flow_run.get("parent_task_run_id")
        if id_ not in self._own.flow_runs:
            if parent is None or not await self._owns_task_run(UUID(parent), depth):
                return False
            self._own.flow_runs.update([id_])
        if flow := flow_run.get("flow_id"):
            self._own.flows.update([UUID(flow)])
        return True

    async def _owns_task_run(self, task_run: UUID, depth: int) -> bool:
        if task_run in self._own.task_runs:
            return True
        found = await self._read("GET", f"/task_runs/{task_run}", None)
        flow_run = (found or {}).get("flow_run_id")
        return flow_run is not None and await self.owns_flow_run(UUID(flow_run), depth)

    async def _task_runs(self, ids: Iterable[UUID], reading: bool) -> None:
        """Those that the API does not know become the flow run's: only who made such an id up knows it."""
        unknown = [id_ for id_ in ids if id_ not in self._own.task_runs]
        for first in range(0, len(unknown), _IDS):
            some = unknown[first : first + _IDS]
            body = {"task_runs": {"id": {"any_": [str(id_) for id_ in some]}}, "limit": _IDS}
            for found in await self._read("POST", "/task_runs/filter", body) or ():
                if await self._is_of_own(found):
                    continue
                if not (reading and await self._is_above(UUID(found["id"]))):
                    raise _foreign("task run", found["id"])
                some.remove(UUID(found["id"]))
            self._own.task_runs.update(some)

    async def _is_above(self, run: UUID) -> bool:
        """Whether a flow run or a task run is one that the flow run is a subflow of, at whatever depth.

        `prefect.runtime.flow_run` tells of them: https://docs.prefect.io/v3/api-ref/python/prefect-runtime-flow_run.
        """
        if self._above is None:
            above: set[UUID] = set()
            flow_run = str(self._own.flow_run) if self._own.flow_run is not None else None
            while flow_run is not None and len(above) < 2 * _DEPTH:
                found = await self._read("GET", f"/flow_runs/{flow_run}", None)
                task_run = (found or {}).get("parent_task_run_id")
                found = await self._read("GET", f"/task_runs/{task_run}", None) if task_run else None
                flow_run = (found or {}).get("flow_run_id")
                above.update(UUID(id_) for id_ in (task_run, flow_run) if id_)
            self._above = above
        return run in self._above

    async def _is_of_own(self, found: dict[str, Any]) -> bool:
        flow_run = found.get("flow_run_id")
        if flow_run is None:
            return self._own.flow_run is None
        return await self.owns_flow_run(UUID(flow_run))


def _foreign(kind: str, id_: object) -> RefusedError:
    words = f"The {kind} {id_} is not of the flow run that this task belongs to: the relay leaves it alone."
    return RefusedError(403, words)
