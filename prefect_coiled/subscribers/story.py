"""Tells a person in Prefect how one cluster comes up and goes, as artifacts of the flow runs concerned.

What belongs to the launch (workers booting, resources) is shown by the flow run "provision NAME"; what the
user of the cluster wants (dashboard, logs, summary, time line) by the user's own flow run, if there is one.
What failed is shown by both. Texts are in `events.story`, sending is in `artifacts`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL

from prefect_coiled.events import Event, hearing, here
from prefect_coiled.events import story as texts
from prefect_coiled.events.links import log_group_url
from prefect_coiled.events.spans import Span
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.records import ClusterRecord
from prefect_coiled.subscribers.artifacts import Artifacts, Told

# Seconds that the end of a cluster may wait for its last artifacts, and the end of one that is in a hurry.
_LAST, _LAST_HURRIED = 5.0, 2.0


class Story:
    """One cluster, as it goes. Nothing here waits for Prefect.

    Made in the flow run that asks for the cluster, if there is one.

    Args:
        sandbox: Whether its logs are in no console of AWS's.
    """

    def __init__(
        self,
        spec: ClusterSpec,
        *,
        sandbox: bool = False,
        clock: Callable[[], float] = time.monotonic,
        artifacts: Artifacts | None = None,
    ) -> None:
        self.spec = spec
        self._sandbox = sandbox
        self._clock, self._begun = clock, clock()
        self._asked_by = _flow_run_id()
        self._provisioned_by: UUID | None = None
        # Without a server, and outside of flows, there is nobody to look.
        wanted = bool(PREFECT_API_URL.value()) or self._asked_by is not None
        self._artifacts = artifacts or Artifacts(wanted)
        self._line = texts.Timeline()
        self._lock = threading.Lock()
        self._progress: Told | None = None
        self._joined = 0
        self._failed = False

    def __call__(self, event: Event) -> None:
        """Show it, if it is of this cluster. Steps are of it where it is made in their context."""
        if event.kind != "step" and event.uid != self.spec.uid:
            return
        now = self._clock() - self._begun
        with self._lock:
            self._line.hear(event, now)
        if event.kind == "provisioning":
            self._provisioned_by = _flow_run_id()
        elif event.kind == "create_cluster" and event.record is not None:
            self._launched(event, event.record)
        elif event.kind == "attached" and event.record is not None:
            self._links(event.record)
        elif event.kind == "workers":
            self._workers(event)
        elif event.kind == "failed":
            self._failure(event)
        elif event.kind == "ended" and event.record is not None:
            self._ended(event, event.record)

    def _launched(self, event: Event, record: ClusterRecord) -> None:
        name = self.spec.name
        # Prefect keeps tables as the text of their rows.
        self._put("resources", "table", json.dumps(event.resources), f"Cluster **{name}**", launch=True)
        if record.workers:
            text = _of(0, len(record.workers), name)
            self._progress = self._put("workers", "progress", 0.0, text, launch=True)
        self._links(record)

    def _links(self, record: ClusterRecord) -> None:
        account, region, name = record.account, record.region, record.name
        self._put(
            "dashboard",
            "markdown",
            f"[Dask dashboard of {name}]({texts.dashboard_address(record)})",
            f"It opens with a token: `{texts.command('dashboard', account, region, name)}` prints the link.",
        )
        if not self._sandbox:
            self._put(
                "logs",
                "markdown",
                f"[Logs of account {account} in CloudWatch]({log_group_url(region, record.log_group)})",
                f"A stream a machine; in a terminal: `{texts.command('logs', account, region, name)}`.",
            )

    def _workers(self, event: Event) -> None:
        self._joined = max(self._joined, event.ready)
        if self._progress is not None and event.of:
            done = min(100.0, round(100.0 * event.ready / event.of, 1))
            self._artifacts.change(self._progress, done, _of(event.ready, event.of, self.spec.name))

    def _failure(self, event: Event) -> None:
        """Told once, whoever notices first."""
        if self._failed or event.error is None:
            return
        self._failed = True
        text = texts.failure(self.spec, event.error, self._line.phases, event.removal)
        for run in dict.fromkeys((self._provisioned_by, self._asked_by)):
            if run is not None:
                what = f"What failed, why, and what to do next: cluster **{self.spec.name}**"
                self._artifacts.put(self._key("failure"), "markdown", run, text, what)

    def _ended(self, event: Event, record: ClusterRecord) -> None:
        if self._failed:
            return  # there was no life to sum up
        name, phases = record.name, self._line.phases
        spans = [span for span in event.spans if isinstance(span, Span)]
        if spans:
            what = f"How cluster **{name}** came up, and what it waited for"
            self._put("launch", "markdown", texts.launch(spans), what, launch=True)
        text = texts.summary(
            self.spec, record, phases, joined=self._joined, cost=event.cost, removal=event.removal
        )
        self._put("summary", "markdown", text, f"Cluster **{name}**")
        image = texts.as_data_uri(texts.picture(phases))
        self._put("time-line", "image", image, f"Time line of cluster **{name}**")

    def close(self, hurried: bool = False) -> None:
        """Send what is left; wait a bounded time for that."""
        self._artifacts.close(_LAST_HURRIED if hurried else _LAST)

    def _put(self, what: str, kind: str, data: Any, text: str, *, launch: bool = False) -> Told:
        shown_by = self._provisioned_by if launch else self._asked_by or self._provisioned_by
        return self._artifacts.put(self._key(what), kind, shown_by, data, text)

    def _key(self, what: str) -> str:
        # By account and not by cluster: names of clusters are many, and most are used once.
        return f"dask-{what}-{self.spec.account}"


@contextmanager
def storied(spec: ClusterSpec, sandbox: bool) -> Iterator[None]:
    """Have a story of this cluster told inside the block, unless there is one already."""
    if any(isinstance(one, Story) and one.spec.uid == spec.uid for one in here().everybody):
        yield
        return
    story = Story(spec, sandbox=sandbox)
    try:
        with hearing(story):
            yield
    finally:
        story.close()


def _of(ready: int, of: int, name: str) -> str:
    return f"{ready} of {of} workers of cluster **{name}** have joined"


def _flow_run_id() -> UUID | None:
    context = FlowRunContext.get()
    return context.flow_run.id if context is not None and context.flow_run is not None else None
