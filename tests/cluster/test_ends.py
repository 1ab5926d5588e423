"""However a cluster ends, nothing is left: neither in AWS nor among the processes of this machine."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from distributed.core import Status

from prefect_coiled.cluster import Cluster
from prefect_coiled.cluster import cluster as clusters
from prefect_coiled.errors import AccessDeniedError, ClusterStartError, OptionsError
from prefect_coiled.sandbox import Sandbox

Live = Callable[[], list[dict[str, Any]]]
Until = Callable[..., Any]


def test_closing_removes_everything(sandbox: Sandbox, live: Live) -> None:
    cluster = Cluster(n_workers=1, wait_for_workers=True, quiet=True)
    cluster.close()
    cluster.close()
    assert live() == []
    assert {i["state"] for i in sandbox.instances().values()} == {"terminated"}
    assert cluster.removal is not None
    assert cluster.removal.left == {}


def test_what_a_cluster_may_cost_an_hour_bounds_its_types_and_its_size(sandbox: Sandbox, live: Live) -> None:
    types = ["m6i.8xlarge", "m6i.xlarge", "m5.large"]
    with Cluster(
        n_workers=1, worker_vm_types=types, max_hourly_cost=1.0, max_total_cost=5.0, quiet=True
    ) as c:
        assert {m.instance_type for m in c.workers.values()} == {"m6i.xlarge"}
        assert (c.cost().known_usd or 0) < 5.0
        with pytest.raises(OptionsError, match=r"scale to 9 workers: .*max_hourly_cost.*room for 3"):
            c.scale(9)
        assert c.adapt(maximum=50).maximum == 3
        assert len(live()) == 2


def test_a_script_and_a_faster_disk_reach_the_machines_and_the_script_is_nowhere_else(
    sandbox: Sandbox, live: Live, tmp_path: Path
) -> None:
    script = tmp_path / "setup.sh"
    script.write_text(f"echo $WHO > {tmp_path}/made-$RANDOM # canary-of-the-script\n")
    sandbox.clear_calls()
    with Cluster(
        n_workers=1,
        wait_for_workers=True,
        host_setup_script=script,
        environ={"WHO": "me"},
        worker_disk_throughput=1000,
        quiet=True,
    ):
        assert [one.read_text() for one in tmp_path.glob("made-*")] == ["me\n"] * 2
        ec2 = sandbox.client("ec2")
        found = []
        for one in ec2.describe_launch_templates()["LaunchTemplates"]:
            (version,) = ec2.describe_launch_template_versions(LaunchTemplateId=one["LaunchTemplateId"])[
                "LaunchTemplateVersions"
            ]
            data = version["LaunchTemplateData"]
            assert "canary-of-the-script" not in base64.b64decode(data["UserData"]).decode()
            (disk,) = data["BlockDeviceMappings"]
            found.append((disk["Ebs"].get("Throughput"), disk["Ebs"].get("Iops")))
        # Of workers: those of the launch, and those that a scheduler launches later.
        assert set(found) == {(1000, 4000)}
        assert len(found) > 1


def test_a_close_that_failed_is_called_again_until_nothing_is_left(
    sandbox: Sandbox, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(action: str, code: str) -> dict[str, Any]:
        return {"service": "ec2", "action": action, "effect": "error", "code": code, "status": 400}

    monkeypatch.setattr("prefect_coiled.cluster.cluster.PATIENCE", 5.0)
    cluster = Cluster(n_workers=1, wait_for_workers=True, quiet=True)
    try:
        sandbox.faults([fails("TerminateInstances", "UnauthorizedOperation")])
        with pytest.raises(AccessDeniedError):
            cluster.close()
        assert cluster.status == Status.failed
        assert len(live()) == 2
        sandbox.faults([fails("DeleteSecurityGroup", "DependencyViolation")])
        cluster.close()
        assert live() == []
        assert cluster.removal is not None
        assert not cluster.removal.is_done
    finally:
        sandbox.faults([])
        cluster.close()
    assert cluster.status == Status.closed
    assert cluster.removal.left == {}
    assert len(cluster.removal.removed["security group"]) == 2


def test_a_scheduler_that_cannot_start_fails_the_launch_with_its_own_words(
    sandbox: Sandbox, live: Live
) -> None:
    with pytest.raises(ClusterStartError, match="no_such_option"):
        Cluster(n_workers=1, quiet=True, scheduler_options={"no_such_option": 1}, timeout=90)
    assert live() == []


def test_workers_that_cannot_start_fail_the_launch_with_their_words_counted(
    sandbox: Sandbox, live: Live
) -> None:
    with pytest.raises(ClusterStartError, match=r"of 2 worker machines ended.*no_such_option"):
        Cluster(
            n_workers=2, wait_for_workers=True, quiet=True, worker_options={"no_such_option": 1}, timeout=90
        )
    assert live() == []


def test_a_launch_that_takes_too_long_is_given_up_and_removed(sandbox: Sandbox, live: Live) -> None:
    sandbox.set(boot="none")  # machines that run, and never answer
    try:
        with pytest.raises(ClusterStartError, match=r"did not answer within 3 s.*Nothing is left running"):
            Cluster(n_workers=1, quiet=True, timeout=3)
    finally:
        sandbox.set(boot="process")
    assert live() == []


def test_one_that_is_to_stay_and_does_not_come_up_does_not_stay(sandbox: Sandbox, live: Live) -> None:
    sandbox.set(boot="none")
    try:
        with pytest.raises(ClusterStartError, match="Nothing is left running"):
            Cluster(n_workers=1, quiet=True, timeout=3, shutdown_on_close=False)
    finally:
        sandbox.set(boot="process")
    assert live() == []


def test_who_cannot_use_a_cluster_of_others_does_not_end_it(
    sandbox: Sandbox, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cluster(name="of-others", n_workers=1, wait_for_workers=True, quiet=True) as cluster:
        running = {machine["InstanceId"] for machine in live()}

        async def fails(*args: Any, **kwargs: Any) -> None:
            raise ClusterStartError("reaching the scheduler", "nothing answers from here", "Look.")

        with monkeypatch.context() as patch:
            patch.setattr(clusters, "wait_until_ready", fails)
            with pytest.raises(ClusterStartError):
                Cluster(name="of-others", shutdown_on_close=True, quiet=True)
        assert {machine["InstanceId"] for machine in live()} == running
        assert cluster.status == Status.running
    assert live() == []


def test_an_idle_cluster_ends_by_itself(sandbox: Sandbox, live: Live, until: Until) -> None:
    cluster = Cluster(n_workers=0, quiet=True, idle_timeout="15 s")
    until(lambda: live() == [], 60)
    cluster.close()


def test_a_cluster_ends_when_its_time_is_up(sandbox: Sandbox, live: Live, until: Until) -> None:
    with Cluster(n_workers=0, quiet=True, cluster_timeout="4 s"):
        until(lambda: live() == [], 60)


def test_spot_workers_leave_in_good_order_before_they_are_taken(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    keywords: dict[str, Any] = {"n_workers": 2, "wait_for_workers": True, "spot": True, "quiet": True}
    with Cluster(**keywords) as cluster, Client(cluster) as client:
        held = client.scatter(list(range(20)), broadcast=False)
        assert [w.spot for w in cluster.workers.values()] == [True, True]
        leaving = min(cluster.workers)
        sandbox.interrupt(leaving, seconds=60)
        until(lambda: leaving not in cluster.observed, 30)
        assert client.gather(held) == list(range(20))
        until(lambda: leaving not in {i["InstanceId"] for i in live()}, 30)


SCRIPT = """
    import json, signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts us without it
    from distributed import Client
    import prefect_coiled.sandbox.control as control
    info = control.SandboxInfo(**json.loads(sys.argv[1]))
    control.ensure_started = lambda: info
    from prefect_coiled import Cluster
    cluster = Cluster(n_workers=1, wait_for_workers=True, quiet=True, no_client_timeout="3 s",
                      report=lambda step, state: print(step, state, flush=True))
    client = Client(cluster)
    print("all is up", flush=True)
    {then}
"""


@pytest.fixture
def script(told: str, environ: dict[str, str]) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a script that makes a cluster, says "all is up" and then does what is given."""
    started: list[subprocess.Popen[str]] = []

    def start(then: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SCRIPT).replace("{then}", then), told],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for_line(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().startswith(word):
            return
    assert process.stderr is not None
    raise AssertionError(process.stderr.read())


def test_a_script_that_forgets_to_close_leaves_nothing(
    script: Callable[[str], subprocess.Popen[str]], live: Live
) -> None:
    process = script("pass")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors, "as silent as with a LocalCluster"
    assert live() == []


@pytest.mark.parametrize("word", ["instances", "scheduler ready", "all is up"])
def test_ctrl_c_at_any_moment_leaves_nothing(
    script: Callable[[str], subprocess.Popen[str]], live: Live, word: str
) -> None:
    process = script("time.sleep(600)")
    wait_for_line(process, word)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode != 0
    assert live() == []


def test_machines_of_a_killed_client_end_by_themselves(
    script: Callable[[str], subprocess.Popen[str]], live: Live, until: Until
) -> None:
    process = script("time.sleep(600)")
    wait_for_line(process, "all is up")
    process.kill()
    process.communicate(timeout=300)
    assert live() != []
    until(lambda: live() == [], 60)
