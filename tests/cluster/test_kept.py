"""The wanted number of workers is kept by the scheduler's machine, with a client and without one."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from distributed import Client

from prefect_coiled.cluster import Cluster
from prefect_coiled.plan.policies import iam_policies
from prefect_coiled.provision import set_up_account
from prefect_coiled.sandbox import Sandbox

Live = Callable[[], list[dict[str, Any]]]
Until = Callable[..., Any]
NUMBER = "123456789012"


def end(sandbox: Sandbox, *names: str) -> None:
    """The machines end, by nobody's wish."""
    sandbox.client("ec2").terminate_instances(InstanceIds=list(names))


def wanted(client: Client) -> int:
    """How many machines the scheduler's machine keeps up."""
    return int(client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.keeper.keeping.wanted))


def workers(live: Live, name: str) -> set[str]:
    """The worker machines of a cluster that are there or on their way."""
    found = set()
    for machine in live():
        tags = {tag["Key"]: tag["Value"] for tag in machine["Tags"]}
        if (tags["coiled-cluster"], tags["coiled-role"]) == (name, "worker") and (
            machine["State"]["Name"] in ("pending", "running")
        ):
            found.add(machine["InstanceId"])
    return found


def test_a_worker_whose_machine_ends_is_replaced(sandbox: Sandbox, live: Live, until: Until) -> None:
    with Cluster(n_workers=2, wait_for_workers=True, quiet=True) as cluster, Client(cluster) as client:
        lost = min(cluster.workers)
        end(sandbox, lost)
        until(lambda: len(cluster.observed - {lost}) == 2, 60)
        assert len(workers(live, cluster.name)) == 2
        # The object knows what it did not launch, and its cost.
        until(lambda: cluster.plan == cluster.observed == set(cluster.workers))
        assert lost not in cluster.workers
        assert client.submit(sum, [1, 2]).result(timeout=300) == 3
    assert live() == []


@pytest.mark.long
def test_a_machine_of_several_workers_is_replaced_once_and_counts_once(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    with (
        Cluster(
            n_workers=2, workers_per_vm=2, max_total_cost=5.0, wait_for_workers=True, quiet=True
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(4, timeout=300)
        lost = min(cluster.workers)
        end(sandbox, lost)
        until(lambda: len(cluster.observed - {lost}) == 2, 60)
        until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 4, 60)
        assert len(workers(live, cluster.name)) == 2
        assert wanted(client) == 2
        # What its scheduler counts against the lid are machines, three by now, for a minute and more each.
        until(lambda: client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler._meter._known)) == 3)
        hour = 4 * 0.192 + 0.1
        assert client.run_on_scheduler(lambda dask_scheduler: dask_scheduler._meter.spent) < hour / 6
    assert live() == []


@pytest.mark.long
def test_what_was_scaled_is_what_is_kept(sandbox: Sandbox, live: Live, until: Until) -> None:
    with Cluster(n_workers=2, wait_for_workers=True, quiet=True) as cluster, Client(cluster) as client:
        cluster.scale(1)
        until(lambda: len(cluster.observed) == 1)
        assert wanted(client) == 1
        (last,) = cluster.observed
        end(sandbox, last)
        until(lambda: len(cluster.observed - {last}) == 1, 60)
        assert len(workers(live, cluster.name)) == 1
        cluster.scale(2)
        client.wait_for_workers(2, timeout=300)
        assert wanted(client) == 2
        # What is retired by hand is not wanted any more.
        client.retire_workers(workers=[next(iter(client.scheduler_info()["workers"]))])
        assert wanted(client) == 1
        until(lambda: len(workers(live, cluster.name)) == 1)


@pytest.mark.long
def test_a_spot_machine_that_aws_takes_back_is_replaced(sandbox: Sandbox, live: Live, until: Until) -> None:
    keywords: dict[str, Any] = {"n_workers": 2, "wait_for_workers": True, "spot": True, "quiet": True}
    with Cluster(**keywords) as cluster, Client(cluster) as client:
        held = client.scatter(list(range(20)), broadcast=False)
        leaving = min(cluster.workers)
        sandbox.interrupt(leaving, seconds=60)
        until(lambda: len(cluster.observed - {leaving}) == 2, 90)
        assert client.gather(held) == list(range(20))
        until(lambda: all(m.spot for m in cluster.workers.values()) and len(cluster.workers) == 2)


@pytest.mark.long
def test_a_machine_that_hangs_is_replaced_though_aws_says_that_it_runs(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    with Cluster(n_workers=1, wait_for_workers=True, quiet=True) as cluster:
        (hung,) = cluster.workers
        sandbox.crash(hung)
        until(lambda: len(cluster.observed - {hung}) == 1, 90)


@pytest.mark.long
def test_workers_that_aws_had_not_at_the_launch_come_later(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    sandbox.set(capacity=[{"instance_type": "*", "zone": "*", "free": 2}])
    try:
        with Cluster(n_workers=2, wait_for_workers=1, quiet=True) as cluster:
            assert len(cluster.workers) == 1
            sandbox.set(capacity=[])
            until(lambda: len(cluster.observed) == 2, 90)
    finally:
        sandbox.set(capacity=[])


@pytest.mark.long
def test_a_worker_that_its_nanny_starts_anew_is_not_replaced(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    with Cluster(n_workers=1, wait_for_workers=True, quiet=True) as cluster, Client(cluster) as client:
        before = workers(live, cluster.name)
        client.restart()
        client.wait_for_workers(1, timeout=300)
        end(sandbox, *before)  # the one that is launched now is the first
        until(lambda: cluster.observed and not cluster.observed & before, 60)
        assert len(workers(live, cluster.name)) == 1


@pytest.mark.long
def test_a_launch_whose_reply_is_lost_launches_nothing_twice(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    with Cluster(n_workers=1, wait_for_workers=True, quiet=True) as cluster:
        before, (lost,) = set(sandbox.instances()), cluster.workers
        sandbox.faults([{"service": "ec2", "action": "RunInstances", "effect": "drop_after", "times": 2}])
        # Nor does a list tell, nor does the machine join before the call is sent again.
        sandbox.set(list_lag=20.0, boot_delay=12.0)
        sandbox.clear_calls()
        try:
            end(sandbox, lost)
            until(lambda: len(cluster.observed - {lost}) == 1, 90)
        finally:
            sandbox.faults([])
            sandbox.set(list_lag=0.0, boot_delay=0.0)
        assert [action for _, action in sandbox.calls(None)].count("RunInstances") > 2
        assert len(set(sandbox.instances()) - before) == 1


SCRIPT = """
    import json, sys, time
    from distributed import Client, fire_and_forget
    import prefect_coiled.sandbox.control as control
    info = control.SandboxInfo(**json.loads(sys.argv[1]))
    control.ensure_started = lambda: info
    from prefect_coiled import Cluster
    cluster = Cluster(name=sys.argv[2], n_workers=int(sys.argv[3]), wait_for_workers=True, quiet=True,
                      no_client_timeout=None, nthreads=1)
    client = Client(cluster)
    {then}
    print("all is up", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def killed(told: str, environ: dict[str, str]) -> Iterator[Callable[..., None]]:
    """A program that makes a cluster, does what is given, and is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(name: str, n_workers: int, then: str = "pass") -> None:
        text = textwrap.dedent(SCRIPT).replace("{then}", then)
        process = subprocess.Popen(
            [sys.executable, "-c", text, told, name, str(n_workers)],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        assert "all is up" in process.stdout.read(len("all is up\n")), process.stderr.read()
        process.kill()

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_the_size_is_kept_without_a_client(
    sandbox: Sandbox, live: Live, until: Until, killed: Callable[..., None]
) -> None:
    killed("left-alone", 2)
    try:
        before = workers(live, "left-alone")
        end(sandbox, min(before))
        until(lambda: len(workers(live, "left-alone") - {min(before)}) == 2, 60)
    finally:
        with Cluster(name="left-alone", quiet=True, shutdown_on_close=True) as cluster:
            until(lambda: len(cluster.observed) == 2, 60)
    assert live() == []


@pytest.mark.long
def test_it_adapts_without_a_client(
    sandbox: Sandbox, live: Live, until: Until, killed: Callable[..., None]
) -> None:
    then = (
        "cluster.adapt(minimum=0, maximum=2, interval='500ms'); "
        "fire_and_forget([client.submit(time.sleep, 5 + i / 10, pure=False) for i in range(8)]); "
        "time.sleep(1)"
    )
    killed("adapts-alone", 0, then)
    try:
        until(lambda: len(workers(live, "adapts-alone")) == 2, 60)
        until(lambda: not workers(live, "adapts-alone"), 120)
    finally:
        Cluster(name="adapts-alone", quiet=True, shutdown_on_close=True).close()
    assert live() == []


@pytest.fixture
def judging(prefect_server: None) -> Iterator[Sandbox]:
    """A sandbox of a test's own, in which IAM judges, with the account set up."""
    with Sandbox({"grace": 3, "iam": "on"}) as own, pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: own.info)
        set_up_account("default", "us-east-1")
        yield own


@pytest.mark.long
@pytest.mark.parametrize(
    ("lacks", "asked"),
    [
        (("CountMachines", "LaunchByOwnTemplate", "LaunchAsItSays"), "ec2:DescribeInstances"),
        (("LaunchByOwnTemplate",), "ec2:RunInstances"),
    ],
    ids=["it may see nothing", "it may launch nothing"],
)
def test_a_role_from_before_is_told_of_once_and_not_asked_again(
    judging: Sandbox, until: Until, caplog: pytest.LogCaptureFixture, lacks: tuple[str, ...], asked: str
) -> None:
    async def turn(dask_scheduler: Any) -> None:
        await dask_scheduler.keeper.turn()

    document = iam_policies("default", aws_account_id=NUMBER)["instance"]
    before = {**document, "Statement": [s for s in document["Statement"] if s["Sid"] not in lacks]}
    with Cluster(n_workers=1, wait_for_workers=True, quiet=True) as cluster, Client(cluster) as client:
        judging.client("iam").put_role_policy(
            RoleName="default", PolicyName="coiled-instance", PolicyDocument=json.dumps(before)
        )
        end(judging, *cluster.workers)

        def said() -> list[str]:
            return [m for m in caplog.messages if "workers that are lost are not replaced" in m]

        until(said, 60)
        client.run_on_scheduler(turn)  # it asks no more
        denied = [d for d in judging.decisions() if d["action"] == asked and not d["allowed"]]
        assert len(denied) == 1
        assert "`prefect-coiled setup aws`" in said()[0]
        cluster.scale(1)  # a client launches by its own keys
        client.wait_for_workers(1, timeout=300)
    assert len(said()) == 1


@pytest.mark.long
def test_a_worker_is_replaced_where_the_aws_account_encrypts_disks_by_a_key_of_its_own(
    judging: Sandbox, until: Until
) -> None:
    judging.set(disk_key=f"arn:aws:kms:us-east-1:{NUMBER}:key/1234abcd-12ab-34cd-56ef-1234567890ab")
    with Cluster(n_workers=1, wait_for_workers=True, quiet=True) as cluster:
        lost = set(cluster.workers)
        end(judging, *lost)
        until(lambda: cluster.observed - lost, 60)
