"""Asks the Prefect API what a flow run's tasks ask of it, in the flow's own process, which has the key.

Only what `rules` let through goes, and only about what `proof` finds to be the flow run's own. Nothing of a
task's request goes along but what was judged: headers, the key among them, are this process's.

What the API answers goes back as it is, without what may hold secrets of others. That it is to be asked again
later does, too: Prefect's client does so on the worker, where somebody waits.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
from prefect.client.base import ServerType
from prefect.client.orchestration import PrefectClient

from prefect_coiled.internals.api_errors import without_user
from prefect_coiled.internals.prefect import send_once
from prefect_coiled.relay.exchange import Answer, Asked
from prefect_coiled.relay.kept_blocks import refuse_kept
from prefect_coiled.relay.needs import LARGEST, RefusedError
from prefect_coiled.relay.ownership import Own
from prefect_coiled.relay.proof import Proof
from prefect_coiled.relay.rules import Judged, judge

# What a task's client does something with.
_PASSED_ON = ("content-type", "retry-after", "prefect-maintenance")
# Fields that may hold what others put there for machines: variables of the environment, keys of registries.
_BLANK: dict[str, dict[str, Any]] = {
    "flow_run": {"job_variables": None, "infrastructure_pid": None},
    "flow_run_above": {"parameters": {}, "context": {}, "state": None, "labels": {}},
    "deployment": {"job_variables": {}, "infra_overrides": {}, "parameters": {}, "pull_steps": None},
    "work_pool": {"base_job_template": {}, "storage_configuration": None},
}


class Answering:
    """Answers for one flow run.

    Args:
        client: Prefect's client, entered.
        send_events: Sends events where the API takes them by a socket alone.
    """

    def __init__(
        self, client: PrefectClient, own: Own, send_events: Callable[[list[bytes]], Awaitable[None]]
    ) -> None:
        self._client, self._own, self._send_events = client, own, send_events
        self._proof = Proof(own, self._read)
        #: Requests that were answered and refused: for tests, and for who wonders what tasks ask.
        self.counts = {"answered": 0, "refused": 0}

    async def answer(self, asked: Asked) -> Answer:
        """The answer to a request of a task's; never an error."""
        method, target, body = asked
        try:
            judged = judge(str(method), str(target), bytes(body))
            about_a_run = judged.method == "GET" and judged.answer in ("flow_run", "task_run")
            await self._proof.prove(judged.needs, reading=about_a_run)
            answer = await self._ask(judged)
            self.counts["answered"] += 1
            return answer
        except RefusedError as refused:
            self.counts["refused"] += 1
            return refused.status, {}, refused.words.encode()
        except httpx.HTTPError as error:
            return 503, {}, _told("The flow's process does not reach the Prefect API", error)
        except Exception as error:  # a task waits, and is to hear of it
            return 500, {}, _told("The relay failed", error)

    async def _ask(self, judged: Judged) -> Answer:
        if judged.target == "/events" and self._client.server_type == ServerType.CLOUD:
            await self._send_events([json.dumps(event).encode() for event in judged.body])
            return 204, {}, b""
        body = judged.body
        if judged.narrow is not None:
            body = _narrowed(body, judged.narrow, self._own)
        response = await self._request(judged.method, judged.target, body)
        content = response.content
        if response.status_code == 403 and b"Invalid CSRF token" in content:
            # The next request takes a new one.
            return 503, {"Retry-After": "1"}, content
        if response.is_success and judged.answer:
            content = await self._looked_at(judged, content)
        if len(content) > LARGEST:
            raise RefusedError(413, f"The API answered {len(content):,} bytes: more than the relay brings.")
        headers = {name: response.headers[name] for name in _PASSED_ON if name in response.headers}
        return response.status_code, headers, content

    async def _request(self, method: str, target: str, body: Any) -> httpx.Response:
        content = None if body is None else json.dumps(body).encode()
        return await send_once(self._client, method, target, content)

    async def _read(self, method: str, target: str, body: Any) -> Any:
        """What the API says of something, for the proof."""
        response = await self._request(method, target, body)
        if response.status_code == 404:
            return None
        if not response.is_success:
            raise httpx.HTTPError(f"it answered {response.status_code} when asked whose something is")
        return response.json()

    async def _looked_at(self, judged: Judged, content: bytes) -> bytes:
        """Learn what was made, and leave out what is not for tasks."""
        kind, found = judged.answer, json.loads(content)
        if kind == "flow_runs":
            found = [_without(run, "flow_run") for run in found if await self._proof.adopt(run)]
        elif kind == "flow_run":
            if judged.method == "POST":
                self._own.flow_runs.update([UUID(found["id"])])
            if not await self._proof.adopt(found):
                found = _without(found, "flow_run_above")
            found = _without(found, kind)
        elif kind in ("flow", "task_run", "artifact"):
            if judged.method == "POST":
                getattr(self._own, f"{kind}s").update([UUID(found["id"])])
            return content
        elif kind == "block_document":
            await refuse_kept(found, self._read)
            return content
        else:
            found = _without(found, kind)
        return json.dumps(found).encode()


def _told(what: str, error: Exception) -> bytes:
    """An error for a task, whose machine knows no password of the API."""
    return f"{what}: {type(error).__name__}: {without_user(str(error))}".encode()


def _without(found: dict[str, Any], kind: str) -> dict[str, Any]:
    return {**found, **{name: blank for name, blank in _BLANK[kind].items() if name in found}}


def _narrowed(body: dict[str, Any], narrow: tuple[str, str], own: Own) -> dict[str, Any]:
    """A filter that finds nothing but what belongs to the flow run; without one, to tasks of this relay.

    What it names of runs itself is proven to be that by now.
    """
    section, name = narrow
    part = dict(body.get(section) or {})
    # Anew, as a filter may have other fields, of which any is enough.
    for field in (name, "parent_task_run_id") if section == "flow_runs" else (name,):
        given = part.get(field) or {}
        if given.get("any_") is not None:
            part[field] = {"any_": given["any_"]}
            if given.get("not_any_"):
                part[field]["not_any_"] = given["not_any_"]
            return {**body, section: part}
    if own.flow_run is None and section == "task_runs":
        # Others have such without a flow run, too: these are known by their ids.
        asked = (part.get("id") or {}).get("any_")
        known = {str(id_) for id_ in own.task_runs.all()}
        part["id"] = {"any_": sorted(known if asked is None else known & {str(one).lower() for one in asked})}
        return {**body, section: part}
    not_any = (part.get(name) or {}).get("not_any_")
    part[name] = {"any_": [str(id_) for id_ in own.flow_runs.all()]}
    if not_any:
        part[name]["not_any_"] = not_any
    return {**body, section: part}
