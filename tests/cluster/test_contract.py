"""Dask's cluster contract, over machines that boot."""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import json
import socket
import ssl
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import cloudpickle
import dask
import pytest
from botocore.exceptions import ClientError
from distributed import Client, Security
from distributed.core import connect

from prefect_coiled import load_account
from prefect_coiled.aws.iam_role import detach_policy
from prefect_coiled.cluster import Cluster
from prefect_coiled.errors import OptionsError
from prefect_coiled.sandbox import Sandbox

Until = Callable[..., Any]


@pytest.mark.long
def test_a_client_computes_on_every_worker(cluster: Cluster) -> None:
    with Client(cluster) as client:
        futures = client.map(lambda x: x * x, range(50))
        assert sum(client.gather(futures)) == sum(x * x for x in range(50))
        assert len(client.nthreads()) == 2


def test_workers_are_named_as_their_machines_and_run_on_them(cluster: Cluster, sandbox: Sandbox) -> None:
    def where(_: int) -> str:
        from distributed import get_worker

        return str(get_worker().name)

    with Client(cluster) as client:
        names = {w["name"] for w in client.scheduler_info()["workers"].values()}
        hosts = {w["host"] for w in client.scheduler_info()["workers"].values()}
        ran = client.gather(client.map(where, range(20)))
    assert names == set(cluster.workers) == cluster.observed == cluster.plan == cluster.requested
    assert hosts == {w.private_ip for w in cluster.workers.values()}
    assert names < set(sandbox.instances())
    assert set(ran) <= names


@pytest.mark.long
def test_environ_and_dask_configuration_arrive_on_the_workers(sandbox: Sandbox) -> None:
    with (
        dask.config.set({"distributed.worker.memory.spill": 0.61, "my-own.key": [1, 2]}),
        Cluster(n_workers=1, wait_for_workers=True, environ={"COLOUR": "blue"}, quiet=True) as cluster,
        Client(cluster) as client,
    ):

        def look() -> list[Any]:
            import os

            get = dask.config.get
            return [os.environ["COLOUR"], get("distributed.worker.memory.spill"), get("my-own.key")]

        assert client.submit(look).result() == ["blue", 0.61, [1, 2]]


def test_its_representation_names_it_and_counts_its_workers(cluster: Cluster) -> None:
    assert repr(cluster).startswith(f"Cluster({cluster.name}, 'tls://")
    assert "workers=2, threads=2" in repr(cluster)
    assert cluster.name in cluster._repr_html_()


def test_pickling_it_says_to_pass_its_name(cluster: Cluster) -> None:
    with pytest.raises(TypeError, match=rf"pass its name, .*Cluster\(name='{cluster.name}'\)"):
        cloudpickle.dumps(cluster)


def test_logs_of_every_machine_come_from_cloudwatch(cluster: Cluster, until: Until) -> None:
    with Client(cluster) as client:
        client.run(lambda: print("hello from the worker"))
    until(lambda: all("hello from the worker" in cluster.get_logs()[w] for w in cluster.workers))
    logs = cluster.get_logs()
    assert set(logs) == {"Cluster", "Scheduler", *cluster.workers}
    until(lambda: "Register worker" in cluster.get_logs(workers=False)["Scheduler"])
    assert "instances: 3 launched" in logs["Cluster"]
    assert set(cluster.get_logs(cluster=False, scheduler=False)) == set(cluster.workers)


def test_a_denied_access_to_s3_is_told_once_with_what_to_do(
    cluster: Cluster, sandbox: Sandbox, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    s3 = sandbox.client("s3")
    s3.create_bucket(Bucket="somebody-elses")
    s3.put_object(Bucket="somebody-elses", Key="one.csv", Body=b"1,2,3")

    def by_boto3(_: int) -> int:
        import boto3

        return len(boto3.client("s3").get_object(Bucket="somebody-elses", Key="one.csv")["Body"].read())

    @dask.delayed
    def by_fsspec() -> int:
        import fsspec

        with fsspec.open("s3://somebody-elses/one.csv") as file:
            return len(file.read())

    def hints() -> list[str]:
        return [r.getMessage() for r in caplog.records if "attach-policy" in r.getMessage()]

    sandbox.set(iam="on")  # only what the shipped policy of the machines' role allows
    try:
        with Client(cluster) as client:
            wrong = client.submit(lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                wrong.result()
            assert hints() == []
            futures = client.map(by_boto3, range(6))
            with pytest.raises(ClientError, match="AccessDenied"):
                client.gather(futures)
            until(hints)
            with pytest.raises(PermissionError):
                by_fsspec().compute()
            # Later events of the same workers come after all that was said before.
            assert client.submit(lambda: 1).result() == 1
            # What it says helps.
            assert load_account().attach_policy("arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
            assert client.submit(by_boto3, 6).result() == len(b"1,2,3")
    finally:
        sandbox.set(iam="off")
        detach_policy(load_account().door(), "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
    (hint,) = hints()
    assert hint.startswith("A task was denied access to S3 (ClientError: An error occurred (AccessDenied)")
    assert "role attach-policy arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess --account default" in hint


def test_secrets_are_in_no_log_and_no_representation(cluster: Cluster) -> None:
    text = str(cluster.get_logs()) + repr(cluster) + str(cluster.record) + repr(cluster.security)
    token = cluster.dashboard_link.partition("token=")[2]
    assert len(token) > 20
    for secret in ("canary-51d0", token, "PRIVATE KEY"):
        assert secret not in text


def test_the_dashboard_opens_by_https_with_its_token_only(cluster: Cluster, sandbox: Sandbox) -> None:
    trust = ssl.create_default_context(cadata=str(cluster.security.tls_ca_file))
    trust.check_hostname = False
    link = cluster.dashboard_link
    assert link.startswith("https://")
    if sandbox.addresses == "many":  # else machines share one, and take free ports
        assert (urlsplit(link).port, urlsplit(cluster.scheduler_address).port) == (8787, 8786)
    browser = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=trust), urllib.request.HTTPCookieProcessor()
    )
    with browser.open(link, timeout=10) as reply:  # sets a cookie and leads to the address without the token
        assert (reply.status, reply.url) == (200, link.partition("?")[0])
    with browser.open(link.partition("?")[0], timeout=10) as reply:
        assert b"Dask" in reply.read()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(link.partition("?")[0], context=trust, timeout=10)
    with pytest.raises((urllib.error.URLError, OSError)):
        urllib.request.urlopen(link.replace("https://", "http://"), timeout=10)


def test_the_scheduler_refuses_plain_tcp_and_foreign_certificates(cluster: Cluster) -> None:
    _, _, address = cluster.scheduler_address.partition("://")
    host, _, port = address.partition(":")
    # What clients speak to is the scheduler's machine itself.
    assert host in (cluster.record.scheduler.public_ip, cluster.record.scheduler.private_ip)

    async def try_to_connect(security: Security | None, protocol: str) -> None:
        arguments = security.get_connection_args("client") if security else {}
        comm = await connect(f"{protocol}://{address}", timeout=3, **arguments)
        await comm.write({"op": "identity", "reply": True})
        await comm.read()

    foreign = Security.temporary()
    for security, protocol in ((foreign, "tls"), (None, "tcp")):
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on when the peer hangs up
            cluster.sync(try_to_connect, security, protocol)
    context = ssl.create_default_context(cadata=str(cluster.security.tls_ca_file))
    context.check_hostname = False
    # In TLS 1.3 a server refuses a missing certificate only after the client's handshake is done.
    with (
        socket.create_connection((host, int(port)), 5) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        wrapped.settimeout(5)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            wrapped.recv(1)


@pytest.mark.long
def test_two_clusters_in_one_process_keep_their_certificates_apart(cluster: Cluster) -> None:
    with Cluster(n_workers=1, wait_for_workers=True, quiet=True) as other:
        with Client(cluster) as first, Client(other) as second:
            assert first.submit(sum, [1, 2]).result() == 3
            assert second.submit(sum, [3, 4]).result() == 7
        with pytest.raises(OSError, match=r"(?i)certificate|handshake|timed out"):
            Client(other.scheduler_address, security=cluster.security, timeout=3)


def test_it_scales_up_and_down_and_terminates_what_it_gives_back(
    sandbox: Sandbox, until: Until, live: Callable[[], list[dict[str, Any]]]
) -> None:
    before = len(live())
    with Cluster(n_workers=1, wait_for_workers=True, quiet=True) as cluster, Client(cluster) as client:
        first = set(cluster.workers)
        cluster.scale(3)
        client.wait_for_workers(3, timeout=300)
        assert len(cluster.plan) == 3
        cluster.scale(1)
        until(lambda: len(cluster.observed) == 1)
        until(lambda: len(live()) == before + 2)
        assert len(cluster.plan) == 1
        assert client.submit(sum, [1, 2]).result() == 3
        assert len(first) == 1
    assert len(live()) == before


def test_it_adapts_to_the_work(sandbox: Sandbox, until: Until) -> None:
    with Cluster(n_workers=0, nthreads=1, quiet=True) as cluster, Client(cluster) as client:
        cluster.adapt(minimum=0, maximum=2, interval="200ms", wait_count=3)
        future = client.submit(lambda x: x + 1, 1)
        assert future.result(timeout=300) == 2
        del future
        until(lambda: not cluster.plan, seconds=60)
        # As with Dask's own clusters, one that nobody refers to any more has ended.
        asks = cluster._adaptive.periodic_callback
        cluster._adaptive = None
        until(lambda: (gc.collect(), not asks.is_running())[1], seconds=30)


@pytest.mark.long
def test_workers_that_start_anew_and_those_of_another_object_are_counted_once(
    sandbox: Sandbox,
    until: Until,
    live: Callable[[], list[dict[str, Any]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = len(live())
    with (
        Cluster(n_workers=1, name="one-truth", nthreads=2, wait_for_workers=True, quiet=True) as first,
        Client(first) as client,
        Cluster(name="one-truth", quiet=True) as second,
    ):
        first.scale(cores=4)
        client.wait_for_workers(2, timeout=300)
        until(lambda: len(second.workers) == len(second.observed) == 2)
        client.restart(wait_for_workers=False)
        first.scale(2)
        second.adapt(minimum_cores=4, maximum_cores=5, interval="200ms")
        client.wait_for_workers(2, timeout=300)
        second.scale(2)
        assert len(live()) == before + 3
        assert len(second.get_logs(cluster=False, scheduler=False)) == 2
        second._adaptive.stop()
        second.scale(1)
        until(lambda: len(live()) == before + 2)
        until(lambda: len(first.workers) == 1)
    caplog.clear()
    assert first.scale(2) is None, "there is nothing to scale any more"
    assert caplog.text == ""
    assert "workers=0" in repr(first)
    assert len(live()) == before


def test_a_client_of_an_attached_object_that_shuts_down_leaves_the_cluster_running(cluster: Cluster) -> None:
    second = Cluster(name=cluster.name, quiet=True)
    Client(second, set_as_default=False).shutdown()
    assert second.status.name == "closed"
    with Client(cluster) as client:
        assert len(client.nthreads()) == 2


@pytest.mark.long
def test_who_attaches_is_told_what_changes_nothing_of_a_cluster_that_is_there(cluster: Cluster) -> None:
    def told(**keywords: Any) -> str:
        steps: list[str] = []
        Cluster(
            name=cluster.name, report=lambda step, state: steps.append(f"{step} {state}"), **keywords
        ).close()
        (line,) = [one for one in steps if "attaching" in one]
        return line

    assert told(timeout="10 minutes", region="us-east-1", shutdown_on_close=False).endswith(cluster.name)
    assert told(backend_options={"region": "us-east-1"}).endswith(cluster.name)
    line = told(worker_vm_types="m6i.2xlarge", max_total_cost=1.0, backend_options={"spot": True})
    words = "which stays as it was launched: worker_vm_types, max_total_cost, backend_options change nothing"
    assert line.endswith(f"attaching to {cluster.name}, {words}")
    assert told(spot=True).endswith("spot changes nothing")


def test_a_closed_cluster_says_so_and_takes_no_orders(cluster: Cluster) -> None:
    second = Cluster(name=cluster.name, quiet=True)
    second.close()
    for order in (second.adapt, lambda: second.wait_for_workers(1), second.__enter__):
        with pytest.raises(
            OptionsError, match=f"of cluster '{cluster.name}': it is closed. Make another one."
        ):
            order()
    assert second.scale(1) is None, "as with Dask's own clusters, there is nothing to scale any more"


@pytest.mark.long
def test_who_keeps_the_workers_sees_them_come_and_go(sandbox: Sandbox, until: Until) -> None:
    with Cluster(n_workers=0, quiet=True) as cluster:
        kept = cluster.workers
        assert not kept
        cluster.scale(1)
        (name,) = kept
        assert kept[name].instance_id == name
        assert name in kept
    assert len(kept) == 0


def test_a_process_that_forks_off_does_not_close_the_cluster(cluster: Cluster) -> None:
    import os

    child = os.fork()
    if child == 0:
        from prefect_coiled.cluster.forgotten import remove_forgotten

        remove_forgotten()  # as at the end of an interpreter
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with Client(cluster) as client:
        assert client.submit(sum, [1, 2]).result(timeout=300) == 3


@pytest.mark.long
def test_a_worker_whose_machine_died_is_replaced_when_scaling(
    sandbox: Sandbox, until: Until, live: Callable[[], list[dict[str, Any]]]
) -> None:
    with Cluster(n_workers=2, wait_for_workers=True, quiet=True) as cluster, Client(cluster) as client:
        lost = min(cluster.workers)
        sandbox.client("ec2").terminate_instances(InstanceIds=[lost])
        until(lambda: lost not in cluster.observed)
        until(lambda: lost not in cluster.plan)
        cluster.scale(2)
        client.wait_for_workers(2, timeout=300)
        assert len(cluster.plan) == 2


ATTACH = """
    import json, sys
    from distributed import Client
    from prefect_coiled import Cluster
    import prefect_coiled.sandbox.control as control
    info = control.SandboxInfo(**json.loads(sys.argv[1]))
    control.ensure_started = lambda: info
    with Cluster(name=sys.argv[2], quiet=True) as cluster, Client(cluster) as client:
        total = client.submit(sum, [20, 22]).result()
        print(json.dumps([total, len(cluster.workers), cluster.shutdown_on_close]))
"""


@pytest.mark.long
def test_another_process_attaches_by_name_and_leaves_it_running(
    cluster: Cluster, told: str, environ: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ATTACH), told, cluster.name],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [42, 2, False]
    with Client(cluster) as client:
        assert len(client.nthreads()) == 2


async def test_it_works_asynchronously(sandbox: Sandbox) -> None:
    async with (
        Cluster(n_workers=1, wait_for_workers=True, asynchronous=True, quiet=True) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        assert await client.submit(sum, [1, 2, 3]) == 6

        async def registered() -> None:
            while "Register worker" not in (await cluster.get_logs(workers=False))["Scheduler"]:
                await asyncio.sleep(0.1)

        await asyncio.wait_for(registered(), 30)  # logs are shipped in batches
        cluster.scale(0)  # begins without being awaited, as with Dask's own clusters
        await cluster
        assert not cluster.workers
    assert cluster.removal is not None
    assert len(cluster.removal.removed["instance"]) == 2


@pytest.mark.long
async def test_the_extension_of_jupyterlab_makes_scales_adapts_and_closes_it(sandbox: Sandbox) -> None:
    # As its manager does it, with a factory of the configuration: https://github.com/dask/dask-labextension
    module, name, keywords = "prefect_coiled", "Cluster", {"n_workers": 0, "quiet": True}
    cluster = await getattr(importlib.import_module(module), name)(asynchronous=True, **keywords)
    try:
        scaled = cluster.scale(1)
        if inspect.isawaitable(scaled):
            await scaled
        await cluster.wait_for_workers(1, timeout=300)
        workers = cluster.scheduler_info["workers"].values()
        assert sum(worker["nthreads"] for worker in workers) > 0
        assert cluster.dashboard_link.startswith("https://")
        adaptive = cluster.adapt(minimum=1, maximum=2)
        assert (adaptive.minimum, adaptive.maximum) == (1, 2)
        async with Client(cluster, asynchronous=True) as client:
            assert await client.submit(sum, [1, 2]) == 3
    finally:
        await cluster.close()
    assert cluster.status.name == "closed"


@pytest.mark.long
async def test_it_works_synchronously_inside_a_running_loop_as_in_a_notebook(sandbox: Sandbox) -> None:
    with Cluster(n_workers=1, wait_for_workers=True, quiet=True) as cluster, Client(cluster) as client:
        assert client.submit(sum, [1, 2, 3]).result() == 6


def test_its_cost_is_told_by_list_prices(cluster: Cluster) -> None:
    cost = cluster.cost()
    assert cost.total_usd is not None
    assert cost.total_usd > 0
    assert {line.what.split(":")[0] for line in cost.lines} >= {"scheduler", "workers"}


def test_its_record_is_shown_in_prefect_as_flow_and_tasks(cluster: Cluster) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterName

    with get_client(sync_client=True) as client:
        name = FlowRunFilterName(any_=[f"provision {cluster.name}"])
        (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=name))
        assert client.read_flow(run.flow_id).name == "provision cluster"
        mine = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        names = {t.name for t in client.read_task_runs(flow_run_filter=mine)}
    machine = "m6i.xlarge on demand"
    told = {f"2 x {machine}", f"scheduler {machine}", "TLS keys", f"security groups of {cluster.name}"}
    assert told <= names
