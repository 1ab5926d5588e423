"""Sends artifacts to Prefect, from a thread of its own.

Whoever tells something never waits and never fails: of what changes quickly only the newest is sent. What is
refused, or cannot be sent until the end, is dropped with a word in the log. Provisioning is the same
with and without it.
"""

from __future__ import annotations

import logging
import threading
from contextvars import copy_context
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

from prefect_coiled.internals.api_errors import without_user
from prefect_coiled.internals.python import is_ending

logger = logging.getLogger(__name__)

# Seconds between two rounds of sending, and for one answer of the API.
_EVERY, _TIMEOUT = 0.5, 10.0
# After so many failures in a row the API is down, or refuses us: it is left alone for so many seconds.
_MOST_FAILURES, _PAUSE = 3, 60.0


class Told:
    """One artifact, as it shall be seen now."""

    def __init__(self, key: str, kind: str, flow_run_id: UUID | None, data: Any, description: str) -> None:
        self.key, self.kind, self.flow_run_id = key, kind, flow_run_id
        self.data, self.description = data, description
        self.id: UUID | None = None


class Artifacts:
    """The artifacts of one cluster.

    Args:
        wanted: Whether anybody can see them; if not, nothing is sent.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._wanted = wanted
        self._waiting: dict[int, Told] = {}
        self._changed = threading.Condition()
        self._over = self._given_up = False
        self._failures = 0
        self._thread: threading.Thread | None = None

    def put(self, key: str, kind: str, flow_run_id: UUID | None, data: Any, description: str) -> Told:
        """Show something.

        Args:
            key: Lower-case letters, digits and dashes; artifacts of one key are versions of each other.
            kind: Prefect's word: "markdown", "table", "progress" or "image".
        """
        told = Told(key, kind, flow_run_id, data, description)
        self._queue(told)
        return told

    def change(self, told: Told, data: Any, description: str) -> None:
        """Show something else in the place of what was told."""
        told.data, told.description = data, description
        self._queue(told)

    def close(self, seconds: float) -> None:
        """Send what is left, and wait for that, but not for longer than so many seconds."""
        with self._changed:
            self._over = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(seconds)
            if thread.is_alive():
                # A process that ends takes Prefect's events with it: what comes later is told to nobody.
                self._given_up = is_ending()
                logger.info("Some artifacts were not sent to Prefect in time.")

    def _queue(self, told: Told) -> None:
        if not self._wanted:
            return
        with self._changed:
            if self._over:
                return
            self._waiting[id(told)] = told
            self._changed.notify()
            if self._thread is None:
                # The context has the settings that hold here, such as which API it is.
                run = copy_context().run
                self._thread = threading.Thread(target=run, args=(self._run,), name="artifacts", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        try:
            # With settings of its own it is a client of its own: a flow's client is closed with the flow.
            settings = {"timeout": _TIMEOUT, "event_hooks": {"response": [self._answered]}}
            with get_client(sync_client=True, httpx_settings=settings) as client:
                while self._round(client):
                    pass
        except Exception as error:  # no API, or one that cannot be asked: nothing depends on it
            logger.info("No artifacts are sent to Prefect: %s", without_user(str(error)))

    def _answered(self, response: httpx.Response) -> None:
        """Prefect's client emits an event after each answer; that fails, loudly, where Python ends."""
        if self._given_up:
            raise RuntimeError("the process ends")

    def _round(self, client: SyncPrefectClient) -> bool:
        """Send what waits; False when that was all."""
        with self._changed:
            while not self._waiting and not self._over:
                self._changed.wait()
            chosen, self._waiting = self._waiting, {}
        if self._given_up:
            return False
        for key, told in list(chosen.items()):
            if self._failures < _MOST_FAILURES and self._sent(client, told):
                del chosen[key]
        down = self._failures >= _MOST_FAILURES
        with self._changed:
            self._waiting = chosen | self._waiting
            if down and self._over:
                return False
            # Not at once again: what changes quickly is sent as it then is.
            self._changed.wait_for(lambda: self._over, _PAUSE if down else _EVERY)
            if down:
                self._failures -= 1
            return bool(self._waiting) or not self._over

    def _sent(self, client: SyncPrefectClient, told: Told) -> bool:
        """Send it; says whether that is done with, and is not to be tried again."""
        try:
            if told.id is None:
                create = ArtifactCreate(
                    key=told.key,
                    type=told.kind,
                    description=told.description,
                    data=told.data,
                    flow_run_id=told.flow_run_id,
                )
                told.id = client.create_artifact(create).id
            else:
                update = ArtifactUpdate(data=told.data, description=told.description)
                client.update_artifact(told.id, update)
            self._failures = 0
            return True
        except Exception as error:  # whatever it is, the cluster comes up and goes without this artifact
            self._failures += 1
            level = logging.INFO if self._failures == 1 else logging.DEBUG
            why = without_user(str(error))
            logger.log(level, "The artifact %s was not sent to Prefect: %s", told.key, why)
            failed = isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error
            return not (failed or isinstance(error, httpx.TransportError))
