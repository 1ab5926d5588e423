"""Tells a person in Prefect how one cluster comes up and goes, as artifacts of the flow runs concerned.

What belongs to the launch (workers booting, resources) is shown by the flow run "provision NAME"; what the
user of the cluster wants (dashboard, logs, summary, time line) by the user's own flow run, if there is one.
What failed is shown by both. Texts are in `plan.story`, sending is in `tasks.artifacts`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from uuid import UUID

from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL

from prefect_coiled.plan import story as texts
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.records import ClusterRecord, Removal
from prefect_coiled.tasks.artifacts import Artifacts, Told

# Seconds that the end of a cluster may wait for its last artifacts, and the end of one that is in a hurry.
_LAST, _LAST_HURRIED = 5.0, 2.0


class Story:
    """One cluster, told as it goes. Nothing here waits for Prefect, and nothing fails with it.

    Made in the flow run that asks for the cluster, if there is one.

    Args:
        spec: The cluster.
        clock: Seconds, monotonic.
        artifacts: Where to tell it.
    """

    def __init__(
        self,
        spec: ClusterSpec,
        *,
        clock: Callable[[], float] = time.monotonic,
        artifacts: Artifacts | None = None,
    ) -> None:
        self.spec = spec
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

    # -- coming up

    def opened(self) -> None:
        """The present flow run is the one that provisions the cluster."""
        self._provisioned_by = _flow_run_id()

    def step(self, step: str, state: str) -> None:
        """Progress, as it is told to terminals too."""
        with self._lock:
            self._line.tell(step, self._now())

    def launched(self, rows: Iterable[dict[str, str]], workers: int) -> None:
        """The machines are launched; `rows` are the cluster's resources."""
        name = self.spec.name
        # Prefect keeps tables as the text of their rows.
        data = json.dumps(list(rows))
        self._artifacts.put(
            self._key("resources"), "table", self._provisioned_by, data, f"Cluster **{name}**"
        )
        if workers:
            self._progress = self._artifacts.put(
                self._key("workers"), "progress", self._provisioned_by, 0.0, _of(0, workers, name)
            )

    def joined(self, ready: int, of: int) -> None:
        """So many workers have joined the scheduler."""
        self._joined = max(self._joined, ready)
        if self._progress is not None and of:
            done = min(100.0, round(100.0 * ready / of, 1))
            self._artifacts.change(self._progress, done, _of(ready, of, self.spec.name))

    def links(self, record: ClusterRecord, sandbox: bool) -> None:
        """Where the dashboard and the logs are."""
        account, region, name = record.account, record.region, record.name
        address = texts.dashboard_address(record)
        self._artifacts.put(
            self._key("dashboard"),
            "markdown",
            self._shown_by,
            f"[Dask dashboard of {name}]({address})",
            f"It opens with a token: `{texts.command('dashboard', account, region, name)}` prints the link.",
        )
        if not sandbox:
            self._artifacts.put(
                self._key("logs"),
                "markdown",
                self._shown_by,
                f"[Logs of account {account} in CloudWatch]({texts.logs_address(record)})",
                f"A stream a machine; in a terminal: `{texts.command('logs', account, region, name)}`.",
            )

    def ready(self) -> None:
        """The cluster is of use."""
        with self._lock:
            self._line.ready(self._now())

    def failed(self, error: BaseException, removal: Removal | None = None) -> None:
        """The cluster did not come up. Told once, whoever notices first."""
        if self._failed:
            return
        self._failed = True
        text = texts.failure(self.spec, error, self._line.phases, removal)
        for run in dict.fromkeys((self._provisioned_by, self._asked_by)):
            if run is not None:
                what = f"What failed, why, and what to do next: cluster **{self.spec.name}**"
                self._artifacts.put(self._key("failure"), "markdown", run, text, what)

    # -- going down

    def leaving(self) -> None:
        """The way down begins."""
        with self._lock:
            self._line.leave(self._now())

    def ended(self, record: ClusterRecord, cost: str, removal: Removal | None) -> None:
        """The cluster is gone, or left running."""
        with self._lock:
            if removal is not None:
                self._line.tell("removed", self._now())
            phases = self._line.phases
        if self._failed:
            return  # there was no life to sum up
        name = record.name
        text = texts.summary(self.spec, record, phases, joined=self._joined, cost=cost, removal=removal)
        self._artifacts.put(self._key("summary"), "markdown", self._shown_by, text, f"Cluster **{name}**")
        image = texts.as_data_uri(texts.picture(phases))
        self._artifacts.put(
            self._key("time-line"), "image", self._shown_by, image, f"Time line of cluster **{name}**"
        )

    def close(self, hurried: bool = False) -> None:
        """Send what is left; wait a bounded time for that."""
        self._artifacts.close(_LAST_HURRIED if hurried else _LAST)

    # -- small things

    @property
    def _shown_by(self) -> UUID | None:
        return self._asked_by or self._provisioned_by

    def _key(self, what: str) -> str:
        # By account and not by cluster: names of clusters are many, and most are used once.
        return f"dask-{what}-{self.spec.account}"

    def _now(self) -> float:
        return self._clock() - self._begun


def _of(ready: int, of: int, name: str) -> str:
    return f"{ready} of {of} workers of cluster **{name}** have joined"


def _flow_run_id() -> UUID | None:
    context = FlowRunContext.get()
    return context.flow_run.id if context is not None and context.flow_run is not None else None
