"""Clusters of whole machines through the public face: AWS's very user data, from boot to power-off."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from distributed import Client
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_coiled import Cluster, CoiledTaskRunner
from prefect_coiled.environment import Locked
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.task_runner.recording import wait_until_recorded
from tests.lost_work.machines import Server
from tests.vm.conftest import disk
from tests.vm.images import Layer

Until = Callable[..., Any]
Measured = Callable[[str], None]
NAME = "whole-machines"


def instances(sandbox: Sandbox, cluster: str) -> list[dict[str, Any]]:
    """The machines of a cluster, as EC2 tells them."""
    mine = [{"Name": "tag:coiled-cluster", "Values": [cluster]}]
    found = sandbox.client("ec2").describe_instances(Filters=mine)
    return [i for r in found["Reservations"] for i in r["Instances"]]


@pytest.fixture(scope="module")
def cluster(account: None, ignored: list[str], measured: Measured) -> Iterator[Cluster]:
    """A scheduler and two workers."""
    more: Any = {"wait_for_workers": True, "package_sync_ignore": ignored, "quiet": True}
    began = time.monotonic()
    with Cluster(n_workers=2, name=NAME, nthreads=1, **more) as running:
        joined = time.monotonic()
        measured(f"Cluster(...) to 2 workers joined: {joined - began:.1f} s")
        yield running


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster) as connected:
        yield connected


def test_a_scheduler_and_two_workers_join_from_machines_of_their_own(
    cluster: Cluster, client: Client
) -> None:
    def where() -> tuple[str, str]:
        import platform
        from pathlib import Path

        return Path("/proc/1/comm").read_text().strip(), platform.node()

    seen = client.run(where)
    assert len(seen) == 2
    assert all(address.startswith("tls://10.77.") for address in seen)
    assert {first for first, _ in seen.values()} == {"systemd"}
    assert len({node for _, node in seen.values()}) == 2


def installation(sandbox: Sandbox, cluster: str) -> list[tuple[str, ...]]:
    """How many wheels each machine of a cluster has fetched and installed, as its console says."""
    said = re.compile(r"prefect-coiled: (?:fetching (\d+) wheels|installing (\d+) packages)")
    consoles = [sandbox.console(i["InstanceId"]) for i in instances(sandbox, cluster)]
    return [tuple(a or b for a, b in said.findall(console)) for console in consoles]


def test_machines_of_a_baked_image_fetch_the_list_and_no_wheel(cluster: Cluster, sandbox: Sandbox) -> None:
    # But for the one of the modules of this suite, which travel with its program.
    assert installation(sandbox, NAME) == [("1", "1")] * 3


def read_without_certificate(address: tuple[str, int]) -> bytes:
    """What a server says by TLS to someone who shows no certificate; TLS 1.3 refuses at the first read."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(address, 10) as plain, context.wrap_socket(plain) as wrapped:
        return wrapped.recv(1)


def test_who_has_no_certificate_of_the_cluster_does_not_get_in(cluster: Cluster) -> None:
    assert cluster.record is not None
    with pytest.raises((ssl.SSLError, ConnectionError)):
        read_without_certificate((cluster.record.scheduler_host, cluster.record.scheduler_port))


def test_a_flow_computes_with_the_clients_packages_and_its_logs_arrive(
    cluster: Cluster, client: Client, until: Until
) -> None:
    seen: list[UUID] = []

    @task
    def average(start: int) -> float:
        import pandas
        import pyarrow

        table = pyarrow.Table.from_pandas(pandas.DataFrame({"x": range(start, start + 10)}))
        get_run_logger().info("average from %s with pyarrow %s", start, pyarrow.__version__)
        return float(table.to_pandas()["x"].mean())

    @flow(task_runner=CoiledTaskRunner(name=NAME))
    def averages() -> list[float]:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        seen.append(context.flow_run.id)
        return [future.result() for future in average.map([0, 10, 20])]

    assert averages() == [4.5, 14.5, 24.5]
    import pyarrow

    expected = {f"average from {start} with pyarrow {pyarrow.__version__}" for start in (0, 10, 20)}

    def messages() -> set[str]:
        with get_client(sync_client=True) as api:
            found = api.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=seen)), limit=200)
        return {log.message for log in found}

    until(lambda: expected <= messages(), 60)


def test_a_server_that_only_this_computer_reaches_is_enough(
    cluster: Cluster, client: Client, until: Until, tmp_path: Path
) -> None:
    server = Server(tmp_path)
    port = server.port

    @task
    def looks(n: int) -> tuple[str, str, int]:
        import socket

        from prefect.settings import get_current_settings

        try:
            socket.create_connection(("127.0.0.1", port), 2.0).close()
            reached = "reached"
        except OSError as error:
            reached = type(error).__name__
        get_run_logger().info("looked %d", n)
        api = get_current_settings().api
        return reached, str(api.key), int(str(api.url).split(":")[2].split("/")[0])

    @flow(task_runner=CoiledTaskRunner(name=NAME))
    def looking() -> list[tuple[str, str, int]]:
        return [future.result() for future in looks.map(range(4))]

    server.start()
    try:
        with temporary_settings({PREFECT_API_URL: server.url}):
            state = looking(return_state=True)
            assert {found[:2] for found in state.result()} == {("ConnectionRefusedError", "None")}
            assert port not in {found[2] for found in state.result()}
            id_ = state.state_details.flow_run_id
            wait_until_recorded()
            with get_client(sync_client=True) as api:

                def found(kind: str) -> Any:
                    body = {kind: {"flow_run_id": {"any_": [str(id_)]}}}
                    return api.request("POST", f"/{kind}/filter", json=body).json()

                assert [run["state_name"] for run in found("task_runs")] == ["Completed"] * 4
                said = {f"looked {n}" for n in range(4)}
                until(lambda: said <= {line["message"] for line in found("logs")}, 60)
    finally:
        server.kill()


def test_the_machines_logs_are_in_cloudwatch(
    cluster: Cluster, client: Client, sandbox: Sandbox, until: Until
) -> None:
    def complete() -> bool:
        logs = cluster.get_logs()
        texts = {name: str(text) for name, text in logs.items()}
        wanted = ["Scheduler", *cluster.workers]
        return all("keys fetched after" in texts.get(name, "") for name in wanted)

    until(complete, 60)
    found = sandbox.client("logs").describe_log_streams(logGroupName="default")["logStreams"]
    streams = {stream["logStreamName"] for stream in found}
    assert {cluster.started().record.scheduler.instance_id, *cluster.workers} <= streams


def test_nobody_outside_reaches_what_no_rule_opens(cluster: Cluster) -> None:
    record = cluster.record
    assert record is not None
    with socket.create_connection((record.scheduler_host, record.scheduler_port), 10):
        pass
    with pytest.raises(TimeoutError):
        socket.create_connection((record.scheduler_host, 23), 2)


def test_a_machine_whose_plug_is_pulled_is_noticed_and_replaced(
    cluster: Cluster,
    client: Client,
    sandbox: Sandbox,
    until: Until,
    ends: Callable[..., list[str]],
    measured: Measured,
) -> None:
    def slow(x: int) -> int:
        import time

        time.sleep(0.5)
        return x

    futures = client.map(slow, range(40), pure=False)
    until(lambda: any(future.done() for future in futures), 60)
    lost = min(cluster.observed)
    began = time.monotonic()
    sandbox.unplug(lost)
    until(lambda: lost not in cluster.observed, 180)
    noticed = time.monotonic() - began
    measured(f"pulled plug to noticed: {noticed:.1f} s")
    # With a FIN it would be a fraction of a second.
    assert noticed > 5
    assert sum(client.gather(futures)) == sum(range(40))
    assert instances_state(sandbox, lost) == "running"  # as AWS sees it
    cluster.scale(2)
    until(lambda: len(cluster.observed) == 2 and lost not in cluster.observed, 180)
    measured(f"pulled plug to replaced: {time.monotonic() - began:.1f} s")
    assert sum(client.gather(client.map(slow, range(4), pure=False))) == 6


def instances_state(sandbox: Sandbox, instance_id: str) -> str:
    """The state of one machine, as EC2 tells it."""
    return str(sandbox.instances()[instance_id]["state"])


def test_closing_ends_every_machine(cluster: Cluster, sandbox: Sandbox) -> None:
    cluster.close()
    left = {i["State"]["Name"] for i in instances(sandbox, NAME)}
    assert left == {"terminated"}


def test_an_idle_cluster_powers_itself_off(
    account: None, ignored: list[str], sandbox: Sandbox, ends: Callable[..., list[str]]
) -> None:
    more: Any = {"package_sync_ignore": ignored, "quiet": True, "idle_timeout": "5 s"}
    cluster = Cluster(n_workers=0, name="idle-machines", **more)
    try:
        ids = [i["InstanceId"] for i in instances(sandbox, "idle-machines")]
        assert ends(ids, 90) == ["Client.InstanceInitiatedShutdown"]
    finally:
        cluster.close()


ABANDONED = """
    import json, pathlib, signal, sys
    import prefect_coiled.sandbox.control as control
    told = json.loads(sys.argv[1])
    info = control.SandboxInfo(**{**told, "state_dir": pathlib.Path(told["state_dir"])})
    control.ensure_started = lambda: info
    from prefect_coiled import Cluster
    keywords = {"wait_for_workers": True, "quiet": True, "no_client_timeout": "5 s"}
    keywords["package_sync_ignore"] = json.loads(sys.argv[2])
    cluster = Cluster(n_workers=1, name="abandoned", **keywords)
    print("all is up", flush=True)
    signal.pause()
"""


def test_machines_power_themselves_off_when_their_client_is_killed(
    account: None,
    sandbox: Sandbox,
    told: str,
    ignored: list[str],
    prefect_url: str,
    ends: Callable[..., list[str]],
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(ABANDONED), told, json.dumps(ignored)]
    environ = {**os.environ, "PREFECT_API_URL": prefect_url}
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        said = [line for line in iter(process.stdout.readline, "all is up\n") if line]
        assert process.poll() is None, "".join(said)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    ids = [i["InstanceId"] for i in instances(sandbox, "abandoned")]
    assert len(ids) == 2
    assert ends(ids, 120) == ["Client.InstanceInitiatedShutdown"] * 2


def test_a_bare_machine_installs_the_clients_environment_from_the_bucket_alone(
    account: None,
    ignored: list[str],
    locked: Locked,
    sandbox: Sandbox,
    bare: list[Layer],
    complete: list[Layer],
    measured: Measured,
) -> None:
    log = sandbox.info.state_dir / "server.log"
    before = len(log.read_text())
    sandbox.set(root_disk=disk(bare))
    more: Any = {"package_sync_ignore": ignored, "wait_for_workers": True, "quiet": True, "timeout": 500}
    began = time.monotonic()
    try:
        with Cluster(n_workers=1, name="bare", **more) as cluster:
            took = time.monotonic() - began
            with Client(cluster) as client:

                def version() -> str:
                    import pyarrow

                    import prefect_coiled

                    return f"{pyarrow.__version__} {prefect_coiled.__file__}"

                (seen,) = client.run(version).values()
            counts = installation(sandbox, "bare")
    finally:
        sandbox.set(root_disk=disk(complete))
    import pyarrow

    assert seen.split()[0] == pyarrow.__version__
    assert seen.split()[1].startswith("/opt/prefect-coiled/env/")
    # uv is a wheel too, and so are the modules of this suite.
    number = str(len(locked.lock.wheels) + 2)
    assert counts == [(number, number)] * 2
    # The sandbox's S3 is inside; what comes from beyond it is noted when the connection has ended.
    met = re.findall(r"received \d+ bytes from (\S+):\d+", log.read_text()[before:])
    assert set(met) <= {sandbox.info.client_address}
    megabytes = sum(wheel.size for wheel in locked.lock.files) / 1e6
    measured(
        f"bare machines, from nothing to a worker joined: {took:.0f} s, {megabytes:.0f} MB of wheels each"
    )
