"""What is told to Prefect never stands in the way: it may be slow, down, or gone in mid-launch."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
)
from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.instances import LIVE, find_instances
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cluster.launch import launch
from prefect_coiled.cluster.request import Request
from prefect_coiled.errors import AwsError
from prefect_coiled.events import Event, hearing
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import create_cluster, delete_cluster
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.subscribers.artifacts import Artifacts
from prefect_coiled.subscribers.story import Story
from prefect_coiled.tasks.steps import Session

Plan, Until = Callable[..., ClusterSpec], Callable[..., Any]


class Relay:
    """Stands between a client and the Prefect server, and can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: list[socket.socket] = []
        self._port = 0
        self.mend()
        self.url = f"http://127.0.0.1:{self._port}/api"

    def mend(self) -> None:
        """Open the way, or open it again."""
        listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        self._open.append(listener)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=pair, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def cut(self) -> None:
        closed, self._open = self._open, []
        for one in closed:
            with contextlib.suppress(OSError):  # it is closed already
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def relay(prefect_server: None) -> Iterator[Relay]:
    """The way to the API; without it requests fail after few repeats."""
    server = urlsplit(str(PREFECT_API_URL.value()))
    made = Relay(str(server.hostname), int(server.port or 80))
    # Some repeats: a busy server has no time for a request now and then.
    with temporary_settings({PREFECT_API_URL: made.url, PREFECT_CLIENT_MAX_RETRIES: 2}):
        yield made
    # What Prefect still has to say would keep the suite from ending.
    made.cut()
    made.mend()
    EventsWorker.drain_all(timeout=60)
    made.cut()


def of_key(key: str) -> ArtifactFilter:
    return ArtifactFilter(key=ArtifactFilterKey(any_=[key]))


def live(aws: Aws, name: str) -> list[str]:
    return [i.instance_id for i in find_instances(aws, name, states=LIVE)]


def test_artifacts_of_an_api_that_is_down_are_dropped_without_waiting() -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        artifacts = Artifacts()
        began = time.monotonic()
        told = artifacts.put("a-key", "progress", None, 0.0, "none yet")
        for n in range(1000):
            artifacts.change(told, float(n % 100), "some")
        assert time.monotonic() - began < 1.0
        artifacts.close(5.0)
        assert time.monotonic() - began < 7.0
    assert told.id is None


def test_of_what_changes_quickly_the_newest_is_kept(prefect_server: None) -> None:
    artifacts = Artifacts()
    told = artifacts.put("quick", "progress", None, 0.0, "none yet")
    for n in range(101):
        artifacts.change(told, float(n), f"{n} of 100")
    artifacts.close(30.0)
    with get_client(sync_client=True) as client:
        (found,) = client.read_artifacts(artifact_filter=of_key("quick"))
    assert (float(found.data), found.description) == (100.0, "100 of 100")


def test_an_api_that_comes_back_is_sent_the_newest_and_what_it_refuses_is_let_go(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr("prefect_coiled.subscribers.artifacts._PAUSE", 0.2)
    down, tries = [True], [0]
    create = SyncPrefectClient.create_artifact

    def flaky(client: SyncPrefectClient, artifact: ArtifactCreate) -> Any:
        tries[0] += 1
        if down:
            raise httpx.ConnectError("down")
        return create(client, artifact)

    monkeypatch.setattr(SyncPrefectClient, "create_artifact", flaky)
    artifacts = Artifacts()
    refused = artifacts.put("Not A Key", "progress", None, 0.0, "")
    told = artifacts.put("comes-back", "progress", None, 0.0, "none yet")
    until(lambda: tries[0] > 5, 20)
    artifacts.change(told, 50.0, "half")
    down.clear()
    until(lambda: told.id is not None, 20)
    artifacts.close(10.0)
    assert refused.id is None
    with get_client(sync_client=True) as client:
        (found,) = client.read_artifacts(artifact_filter=of_key("comes-back"))
    assert (float(found.data), found.description) == (50.0, "half")


def test_nothing_is_sent_where_nobody_can_look() -> None:
    artifacts = Artifacts(wanted=False)
    artifacts.put("a-key", "markdown", None, "x", "y")
    artifacts.close(0.0)
    assert "artifacts" not in {t.name for t in threading.enumerate()}


def test_a_provisioning_flow_of_its_own_tells_its_resources(session: Session, spec: Plan) -> None:
    plan = spec(n_workers=1)
    record = create_cluster(plan)
    try:
        with get_client(sync_client=True) as client:
            named = FlowRunFilter(name=FlowRunFilterName(any_=[f"provision {plan.name}"]))
            (run,) = client.read_flow_runs(flow_run_filter=named)
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            found = {a.key: a for a in client.read_artifacts(flow_run_filter=chosen)}
        rows = json.loads(found[f"dask-resources-{plan.account}"].data)
        ids = {r["id"] for r in rows}
        assert {record.scheduler.instance_id, *(w.instance_id for w in record.workers)} <= ids
        assert found[f"dask-workers-{plan.account}"].type == "progress"
        assert set(run.tags) == {"coiled", plan.account}
    finally:
        delete_cluster(plan.account, plan.region, plan.name, patience=20.0)


def test_a_denied_step_is_told_with_its_diagnosis_by_both_flow_runs(
    session: Session, spec: Plan, sandbox: Sandbox
) -> None:
    plan = spec(n_workers=1)
    runs = []
    rule = {"service": "ec2", "action": "CreateSecurityGroup", "effect": "error"}
    sandbox.faults([{**rule, "code": "UnauthorizedOperation", "status": 403}])

    @flow
    def asks() -> None:
        runs.append(FlowRunContext.get().flow_run.id)  # type: ignore[union-attr]
        story = Story(plan)
        try:
            with hearing(story):
                create_cluster(plan)
        finally:
            story.close()

    with pytest.raises(AwsError):
        asks()
    with get_client(sync_client=True) as client:
        named = FlowRunFilter(name=FlowRunFilterName(any_=[f"provision {plan.name}"]))
        (run,) = client.read_flow_runs(flow_run_filter=named)
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run.id, *runs]))
        found = [a for a in client.read_artifacts(flow_run_filter=chosen) if "failure" in str(a.key)]
    assert {a.flow_run_id for a in found} == {run.id, *runs}
    text = str(found[0].data)
    assert "**What failed:** creating Security Group" in text
    assert "UnauthorizedOperation" in text
    assert "**What to do next:** Attach the ongoing policy" in text


@pytest.mark.parametrize(("cut_at", "machines"), [("image", 0), ("log streams", 3)])
def test_an_api_that_goes_down_in_the_middle_of_a_launch_leaves_no_machine(
    account: Account, aws: Aws, relay: Relay, monkeypatch: pytest.MonkeyPatch, cut_at: str, machines: int
) -> None:
    monkeypatch.setattr("prefect_coiled.cluster.launch.load_account", lambda slug: account)
    launched: list[Any] = []

    def cut(event: Event) -> None:
        if event.kind == "step" and event.step == cut_at:
            launched.append(live(aws, "cut-off"))
            relay.cut()

    began = time.monotonic()
    with hearing(cut), pytest.raises(Exception) as caught:  # noqa: PT011  Prefect's own, of some request
        launch(Request({}, n_workers=2, name="cut-off"), threading.Event())
    assert [len(ids) for ids in launched[:1]] == [machines], caught.value
    assert live(aws, "cut-off") == []
    assert time.monotonic() - began < 90
