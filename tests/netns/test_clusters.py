"""Clusters as a user meets them, where the firewall is real."""

from __future__ import annotations

import socket
import ssl
import time
from urllib.parse import urlsplit

import pytest
from distributed import Client
from prefect import flow, get_run_logger, task
from prefect.runtime import flow_run
from prefect.settings import (
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    get_current_settings,
    temporary_settings,
)

from prefect_coiled import CoiledTaskRunner
from prefect_coiled.cluster import Cluster
from prefect_coiled.task_runner.recording import wait_until_recorded

ELSEWHERE = "203.0.113.0/24"
# The first test waits for a Prefect server and a cluster.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module", autouse=True)
def default_account(sandbox):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: sandbox.info)
        yield


@pytest.fixture(scope="module")
def cluster(default_account, prefect_server):
    with Cluster(n_workers=2, wait_for_workers=True, nthreads=1, quiet=True) as running:
        yield running


@pytest.fixture
def opened(cluster):
    """The rules as a user wants them; the documented default afterwards."""
    yield cluster.set_ingress
    cluster.set_ingress("0.0.0.0/0")


@pytest.fixture(scope="module")
def client(cluster):
    with Client(cluster) as connected:
        yield connected


@pytest.fixture(scope="module")
def host(cluster):
    return urlsplit(cluster.scheduler_address).hostname


def instances(sandbox):
    found = sandbox.client("ec2").describe_instances(
        Filters=[{"Name": "instance-state-name", "Values": ["running"]}]
    )
    return [i for r in found["Reservations"] for i in r["Instances"]]


def _inside():
    """What machines run; local functions, because machines cannot import this file."""

    def listening():
        import psutil

        found = psutil.net_connections("tcp")
        return sorted({c.laddr.port for c in found if c.status == "LISTEN" and c.laddr.ip != "127.0.0.1"})

    def reach(targets, seconds=2.0):
        import socket

        found = []
        for target in targets:
            try:
                socket.create_connection(tuple(target), seconds).close()
                found.append("open")
            except OSError as error:
                found.append(type(error).__name__)
        return found

    def listen(port):
        import socket
        import threading

        server = socket.create_server(("", port))

        def serve():
            while True:
                server.accept()[0].close()

        threading.Thread(target=serve, daemon=True).start()
        return port

    return listening, reach, listen


listening, reach, listen = _inside()


def speak_without_certificate(host):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, 8786), 5) as raw, context.wrap_socket(raw) as dressed:
        dressed.sendall(b"hello")
        assert dressed.recv(1000) != b""


def test_a_cluster_has_the_addresses_of_its_subnets_and_computes_over_the_public_one(
    cluster, client, host, sandbox
):
    scheduler = next(i for i in instances(sandbox) if i.get("PublicIpAddress") == host)
    assert cluster.scheduler_address == f"tls://{host}:8786"
    assert scheduler["PrivateIpAddress"].startswith("10.77.")
    workers = {i["PrivateIpAddress"] for i in instances(sandbox)} - {scheduler["PrivateIpAddress"]}
    assert {urlsplit(address).hostname for address in client.scheduler_info()["workers"]} == workers
    assert len(workers) == 2
    assert all("PublicIpAddress" not in i for i in instances(sandbox) if i["PrivateIpAddress"] in workers)
    assert client.submit(sum, [1, 2, 3]).result(30) == 6
    with pytest.raises((ssl.SSLError, OSError)):
        speak_without_certificate(host)


def test_results_go_from_worker_to_worker(client):
    one, other = client.scheduler_info()["workers"]
    made = client.submit(bytes, 1_000_000, workers=[one])
    assert client.submit(len, made, workers=[other]).result(30) == 1_000_000


def test_a_port_that_no_rule_opens_is_closed_whatever_listens_there(client, host, knock):
    assert client.run_on_scheduler(listen, 22) == 22
    assert client.run_on_scheduler(listen, 9000) == 9000
    assert client.run_on_scheduler(reach, [("127.0.0.1", 22), ("127.0.0.1", 9000)]) == ["open", "open"]
    assert knock(host, 8786) == knock(host, 8787) == "open"
    assert knock(host, 22) == knock(host, 9000) == "nothing"


def test_the_dashboard_is_closed_where_only_the_scheduler_is_let_in(client, host, knock, opened):
    opened([{"ports": [8786], "cidr": "me"}])
    assert knock(host, 8786) == "open"
    assert knock(host, 8787) == "nothing"


def test_a_rule_for_another_network_does_not_let_the_client_in(cluster, host, knock, opened):
    opened([{"ports": [8786, 8787], "cidr": ELSEWHERE}])
    assert knock(host, 8786) == knock(host, 8787) == "nothing"


def test_me_is_the_address_that_the_firewall_sees(cluster, host, knock, opened, sandbox):
    rules = opened("me")
    assert {rule.cidr for rule in rules} == {f"{sandbox.info.client_address}/32"}
    assert knock(host, 8786) == "open"


def test_a_private_worker_is_reached_by_its_scheduler_and_not_from_outside(client, way_in, sandbox):
    listeners = client.run(listening)
    targets = [(urlsplit(a).hostname, port) for a, ports in listeners.items() for port in ports]
    assert len(targets) >= 4  # of two machines, a nanny and a worker each
    assert {urlsplit(a).port for a in listeners} <= {port for _, port in targets}
    assert set(client.run_on_scheduler(reach, targets)) == {"open"}
    assert "open" not in reach(targets, 0.7)


def test_a_revoked_rule_is_closed_at_once_and_opens_again(cluster, host, knock, opened, record_property):
    """New connections are refused from the moment that the call returns."""
    opened([{"ports": [8786], "cidr": "me"}])
    assert knock(host, 8786) == "open"
    began = time.perf_counter()
    cluster.set_ingress([])
    took = 1000 * (time.perf_counter() - began)
    assert knock(host, 8786) == "nothing"
    record_property("set_ingress([]) to closed, ms", round(took))
    began = time.perf_counter()
    cluster.set_ingress("me")
    record_property("set_ingress to open, ms", round(1000 * (time.perf_counter() - began)))
    assert knock(host, 8786) == "open"


def test_a_connection_that_a_narrow_rule_let_in_outlives_it(cluster, host, knock, opened):
    opened("me")
    with Client(cluster) as connected:
        assert connected.submit(sum, [1]).result(30) == 1
        cluster.set_ingress([])
        assert knock(host, 8786) == "nothing"
        assert connected.submit(sum, [2]).result(30) == 2


def test_a_connection_that_a_rule_for_everybody_let_in_is_cut_with_it(sandbox, host, opened, knock):
    opened("0.0.0.0/0")
    with socket.create_connection((host, 8787), 5) as peer:
        peer.settimeout(1)
        opened([])
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        # Plain HTTP is refused by an answer or by the end; here nothing comes at all.
        with pytest.raises(TimeoutError):
            peer.recv(100)


def test_an_api_on_the_loopback_is_enough_though_no_machine_reaches_it(
    default_account, prefect_server, recorded_of
):
    api = str(get_current_settings().api.url)

    @task
    def square(x: int) -> tuple[int, bool]:
        import socket
        from urllib.parse import urlsplit

        parts = urlsplit(api)
        try:
            socket.create_connection((parts.hostname, parts.port), 2.0).close()
            reached = True
        except OSError:
            reached = False
        get_run_logger().info("squared %d", x)
        return x * x, reached

    @flow(task_runner=CoiledTaskRunner(n_workers=1))
    def squares():
        return square.map(range(4)).result(), flow_run.id

    squared, id_ = squares()
    assert squared == [(x * x, False) for x in range(4)]
    wait_until_recorded()
    runs, said = recorded_of(id_)
    # Beside the making of the cluster, which is a subflow.
    squares_run = [run["state_name"] for run in runs if run["name"].startswith("square")]
    assert squares_run == ["Completed"] * 4
    assert {f"squared {x}" for x in range(4)} <= said
    assert any("Tasks ask the Prefect API through this process" in line for line in said)


def test_no_server_at_all_is_enough(default_account, prefect_server, recorded_of):
    @task
    def square(x: int) -> int:
        get_run_logger().info("squared %d", x)
        return x * x

    @flow(task_runner=CoiledTaskRunner(n_workers=1))
    def squares():
        return square.map(range(4)).result(), flow_run.id

    with temporary_settings(
        {PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True}, restore_defaults={PREFECT_API_URL, PREFECT_API_KEY}
    ):
        assert not get_current_settings().api.url
        squared, id_ = squares()
        wait_until_recorded()
        runs, said = recorded_of(id_)
    assert squared == [x * x for x in range(4)]
    squares_run = [run["state_name"] for run in runs if run["name"].startswith("square")]
    assert squares_run == ["Completed"] * 4
    assert {f"squared {x}" for x in range(4)} <= said
    assert any("PREFECT_API_URL is not set" in line for line in said)


def test_an_api_on_the_loopback_is_refused_where_tasks_ask_it_themselves(default_account, prefect_server):
    @task
    def square(x: int) -> int:
        return x * x

    @flow(task_runner=CoiledTaskRunner(n_workers=1, api_relay="never"))
    def squares() -> int:
        return square.submit(2).result()

    failure = squares(return_state=True).result(raise_on_failure=False)
    assert "an address of this machine alone" in str(failure)
