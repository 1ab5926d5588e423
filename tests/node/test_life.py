"""How machines end: every way leads to one line with the reason, the last lines shipped, power-off."""

import os
import signal
import subprocess

import pytest
from distributed import Event

from prefect_coiled.node.keeping import PAUSES_S
from prefect_coiled.plan.node_config import Keep
from tests.node.conftest import until


def ended(node, reason, timeout=30):
    node.wait_off(timeout)
    assert node.reason() == reason
    assert f"reason={reason}" in node.cluster.log(node)
    assert node.off.read_text() == "-h now\n"
    assert node.descendants() == []
    assert list((node.directory / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"idle_timeout": 0.5}, "idle"), ({"cluster_timeout": 0.5}, "cluster-timeout")],
)
def test_a_scheduler_closes_by_its_timers(cluster, changes, reason):
    scheduler, _ = cluster.start(**changes)
    ended(scheduler, reason)


@pytest.mark.long
def test_a_cluster_ends_before_it_costs_more_than_it_may_with_or_without_clients(cluster):
    # A dollar a second for each machine, and a worker counts from a minute before it joined.
    scheduler, [worker] = cluster.start(1, max_total_cost=190.0, base_usd=3600.0, worker_usd=3600.0)
    ended(scheduler, "cost-limit")
    ended(worker, "closed")


SCRIPT = """
echo "made ready by $WHO"
echo "$WHO" > "$TMPDIR/../made"
"""


def test_a_script_of_the_users_runs_on_each_machine_before_dask_does(cluster):
    cluster.put_secrets({"WHO": "me"}, script=SCRIPT)
    scheduler, [worker] = cluster.start(1)
    with cluster.client() as client:
        client.wait_for_workers(1, timeout=300)
    for node in (scheduler, worker):
        assert (node.directory / "made").read_text() == "me\n"
        until(lambda node=node: "ready after" in node.console, 30)  # the client may see it first
        said = node.console
        assert said.index("made ready by me") < said.index("Dask")
        until(lambda node=node: "made ready by me" in cluster.log(node), 10)


def test_a_script_that_fails_ends_its_machine_with_its_words(cluster):
    cluster.put_secrets(script="echo no such disk >&2; exit 7")
    node = cluster.node("scheduler")
    ended(node, "boot-failed")
    assert "no such disk" in cluster.log(node)
    assert "running host_setup_script: it ended with status 7" in node.console


def test_a_machine_that_is_ended_ends_a_script_that_runs(cluster):
    cluster.put_secrets(script="echo begun; sleep 600")
    node = cluster.node("scheduler")
    until(lambda: "begun" in node.console, 30)
    node.process.send_signal(signal.SIGTERM)
    ended(node, "stopped")


def test_a_cluster_without_clients_ends_with_all_its_machines(cluster):
    scheduler, [worker] = cluster.start(1, no_client_timeout=1.0)
    with cluster.client() as client:
        client.wait_for_workers(1, timeout=300)
        # A client that does nothing keeps it open.
        client.run_on_scheduler(lambda dask_scheduler: dask_scheduler._timers.started)
        assert not scheduler.off.exists()
    ended(scheduler, "no-client")
    ended(worker, "closed")


@pytest.mark.long
def test_a_scheduler_bears_the_silence_of_a_client_for_twice_as_long_as_it_may_be_away(cluster):
    scheduler, _ = cluster.start(no_client_timeout=60.0)

    def borne(dask_scheduler):
        import socket

        sockets = [one.comm.stream.socket for one in dask_scheduler.client_comms.values()]
        return [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for one in sockets]

    with cluster.client() as client:
        assert client.run_on_scheduler(borne) == [120_000]
        # Whoever attaches knows by this how long to bear it on his side.
        assert client.scheduler_info()["prefect_coiled_silence"] == 120.0
        client.shutdown()
    ended(scheduler, "closed")


@pytest.mark.long
def test_a_cluster_that_nobody_ever_connects_to_ends(cluster):
    scheduler, _ = cluster.start(no_client_timeout=0.5, settings={"client_grace_s": 0.5})
    ended(scheduler, "no-client")


@pytest.mark.long
def test_a_client_can_close_the_cluster(cluster):
    scheduler, [worker] = cluster.start(1)
    with cluster.client() as client:
        client.wait_for_workers(1, timeout=300)
        client.shutdown()
    ended(scheduler, "closed")
    ended(worker, "closed")


def test_a_lost_scheduler_powers_its_workers_off(cluster):
    scheduler, [worker] = cluster.start(1)
    until(lambda: "ready after" in worker.console, 30)
    os.kill(scheduler.dask_pid(), signal.SIGSEGV)
    ended(scheduler, "crashed")
    assert "rc=-11" in scheduler.console
    assert "Fatal Python error: Segmentation fault" in cluster.log(scheduler)
    ended(worker, "scheduler-lost")


@pytest.mark.long
def test_a_dask_process_that_hangs_is_ended(cluster):
    scheduler, _ = cluster.start(settings={"pulse_s": 0.2, "hang_s": 2})
    os.kill(scheduler.dask_pid(), signal.SIGSTOP)
    ended(scheduler, "hung")


@pytest.mark.long
@pytest.mark.parametrize("step", [600.0, -600.0])
def test_a_time_of_day_that_is_set_ends_no_worker(cluster, step):
    cluster.start(1, idle_timeout=500)
    with cluster.client() as client:
        client.wait_for_workers(1, timeout=300)
        kept = client.submit(os.getpid, pure=False)
        before = kept.result()

        async def set_it(dask_scheduler):
            from distributed import metrics, scheduler

            shown = metrics.time
            metrics.time = scheduler.time = lambda: shown() + step
            dask_scheduler.check_idle()
            await dask_scheduler.check_worker_ttl()
            return dask_scheduler.status.name, [
                ws.last_seen - scheduler.time() for ws in dask_scheduler.workers.values()
            ]

        status, seen = client.run_on_scheduler(set_it)
        assert status == "running"
        assert -60 < seen[0] <= 0  # one that hangs from now on is noticed as soon as before
        assert client.submit(os.getpid, pure=False).result() == before == client.gather(kept)


@pytest.mark.long
def test_a_program_that_is_stopped_keeps_a_cluster_no_longer_than_it_has_work(cluster):
    scheduler, [worker] = cluster.start(1, idle_timeout=8)  # longer than a busy machine takes to connect
    with cluster.client() as client:
        client.wait_for_workers(1, timeout=300)
        # There is work until the program is there, however long it takes to start.
        enough = Event("enough", client=client)
        work = client.submit(lambda: Event("enough").wait())
        program = cluster.program(
            "import time; client.wait_for_workers(1); print('there', flush=True); time.sleep(600)"
        )
        try:
            assert program.stdout.readline() == b"there\n"
            program.send_signal(signal.SIGSTOP)
            enough.set()
            work.result(timeout=300)
            client.close()
            ended(scheduler, "idle")
            ended(worker, "closed")
        finally:
            program.kill()
            program.wait()
            program.stdout.close()


@pytest.mark.long
def test_a_dask_process_that_the_kernel_kills_for_its_memory_ends_the_machine(cluster):
    _, [worker] = cluster.start(1)
    until(lambda: "ready after" in worker.console, 30)
    os.kill(worker.dask_pid(), signal.SIGKILL)
    ended(worker, "crashed")
    assert "rc=-9" in worker.console


SMALL_DISK = (
    "unshare",
    "--mount",
    "--map-root-user",
    "sh",
    "-c",
    'mount -t tmpfs -o size=4m none "$TMPDIR" && exec "$@"',
    "sh",
)


@pytest.mark.long
@pytest.mark.skipif(subprocess.run([*SMALL_DISK[:5], "true"], check=False).returncode, reason="no namespaces")
def test_a_machine_whose_disk_is_full_tells_it_and_powers_off_as_ever(cluster):
    scheduler, [worker] = cluster.start(1, worker={"prefix": SMALL_DISK, "memory_limit": "400 MB"})
    with cluster.client() as client:
        client.wait_for_workers(1, timeout=300)
        # More than memory holds, and nowhere to put it.
        kept = [client.submit(bytes, 100_000_000, pure=False) for _ in range(5)]
        until(lambda: "No space left on device" in worker.console, 60)
        client.cancel(kept)
        client.shutdown()
    ended(worker, "closed")
    ended(scheduler, "closed")


def test_a_spot_notice_moves_results_to_another_worker_first(cluster):
    _, [spot, other] = cluster.start(
        2, settings={}, worker={"spot": True, "settings": {"spot_poll_s": 0.2, "drain_s": 20}}
    )
    with cluster.client() as client:
        client.wait_for_workers(2, timeout=300)
        kept = client.submit(lambda: bytearray(1_000_000), workers=[spot.instance_id], pure=False)
        running = client.submit(
            lambda: __import__("time").sleep(1.5) or "done",
            workers=[spot.instance_id],
            pure=False,
            allow_other_workers=True,
        )
        kept.result()  # on the spot machine alone
        spot.metadata.values["spot/instance-action"] = '{"action": "terminate", "time": "soon"}'
        ended(spot, "spot")
        assert len(client.gather(kept)) == 1_000_000
        assert running.result() == "done"
        names = {w["name"] for w in client.scheduler_info(n_workers=-1)["workers"].values()}
        assert names == {other.instance_id}
        story = client.run_on_scheduler(
            lambda dask_scheduler: [ts.suspicious for ts in dask_scheduler.tasks.values()]
        )
        assert set(story) == {0}
    assert "results of 1 worker(s) moved" in spot.console


def test_a_terminated_instance_ends_its_worker_and_sends_its_last_lines(cluster):
    _, [worker] = cluster.start(1)
    until(lambda: "ready after" in worker.console, 30)
    worker.process.send_signal(signal.SIGTERM)
    ended(worker, "stopped")
    with cluster.client() as client:
        until(lambda: not client.scheduler_info(n_workers=-1)["workers"], 10)


def test_a_killed_agent_takes_dask_with_it(cluster):
    scheduler, _ = cluster.start()
    scheduler.process.kill()
    until(lambda: not scheduler.descendants(), 20, "end of Dask")


def test_a_machine_without_keys_says_why_and_powers_off(cluster):
    node = cluster.node("scheduler", {"secrets_wait_s": 1}, secrets_parameter="/not/there")
    ended(node, "boot-failed")
    assert "ParameterNotFound" in node.console
    assert "ssm:GetParameter" in cluster.log(node)


def test_a_worker_whose_scheduler_never_comes_powers_off(cluster):
    worker = cluster.node("worker", scheduler_host="127.77.1.1", boot_timeout=3)
    ended(worker, "boot-timeout")


@pytest.mark.long
def test_several_workers_of_a_given_class_share_a_machine(cluster):
    cluster.start()
    worker = cluster.node("worker", workers_per_vm=2, worker_class="distributed.worker.Worker", nthreads=None)
    with cluster.client() as client:
        client.wait_for_workers(2, timeout=300)
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert {w["name"] for w in workers} == {f"{worker.instance_id}-0", f"{worker.instance_id}-1"}
        assert {w["nthreads"] for w in workers} == {max(1, (os.cpu_count() or 1) // 2)}


@pytest.mark.long
def test_a_class_that_is_not_there_is_told_in_the_log(cluster):
    cluster.start()
    worker = cluster.node("worker", worker_class="no_such_module.Worker")
    ended(worker, "crashed")
    assert "No module named 'no_such_module'" in cluster.log(worker)


@pytest.mark.long
def test_a_scheduler_that_can_launch_no_workers_tries_so_often_and_says_so(cluster):
    keep = Keep(uid="0123", n_workers=1, templates=("no-such-template",))
    scheduler, _ = cluster.start(settings={"keeper_pace": 0.01}, keep=keep)
    cluster.tell(launched=[])
    until(lambda: f"in {len(PAUSES_S)} tries" in scheduler.console, 60, "the end of the tries")
    assert scheduler.console.count("could not be launched yet") == 1
    assert scheduler.console.count("no more are made until the cluster is scaled") == 1


@pytest.mark.long
def test_keys_and_addresses_of_the_user_are_not_those_of_the_machine(cluster):
    theirs = {"AWS_ACCESS_KEY_ID": "A", "AWS_PROFILE": "theirs", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    cluster.put_secrets(environ=theirs)
    keep = Keep(uid="0123", n_workers=1, templates=("no-such-template",))
    scheduler, _ = cluster.start(settings={"keeper_pace": 0.01}, keep=keep)
    cluster.tell(launched=[])
    until(lambda: "InvalidLaunchTemplateName" in scheduler.console, 60, "an answer of AWS")
