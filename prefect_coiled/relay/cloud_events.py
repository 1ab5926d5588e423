"""Sends events, which are JSON already, by Prefect's own client: Prefect Cloud takes them by its socket."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prefect.events.clients import get_events_client

from prefect_coiled.internals.prefect import confirm, unconfirmed


class _Ready:
    """An event as Prefect's client wants one."""

    def __init__(self, body: bytes) -> None:
        self._body, self.id = body, ""

    def model_dump_json(self) -> str:
        return self._body.decode()


async def stream(bodies: Iterable[bytes]) -> None:
    """Send events, and return once the API has them.

    Raises:
        ConnectionError: It did not confirm all of them.
    """
    events: list[Any] = [_Ready(body) for body in bodies]
    # Asked once whether it has them, after the last one: each question is a round trip.
    async with get_events_client(checkpoint_every=len(events)) as client:
        for event in events:
            await client.emit(event)
        await confirm(client)
        if left := unconfirmed(client):
            raise ConnectionError(f"{left} of {len(events)} events were not confirmed")
