"""What strains a cluster: large results, many of them, memory that runs out, ends in the midst of work."""

from __future__ import annotations

import logging
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import pytest
from distributed import Client, KilledWorker

from prefect_coiled import Cluster
from prefect_coiled.sandbox import Sandbox

Live = Callable[[], list[dict[str, Any]]]
Until = Callable[..., Any]
PAGES = (
    *("status", "workers", "tasks", "system", "profile", "graph", "groups", "info/main/workers.html"),
    *("info/main/logs.html", "individual-plots.json", "individual-task-stream", "individual-progress"),
    *("health", "json/counts.json"),
)


def test_a_result_of_500_mb_and_10_000_small_ones_come_back(cluster: Cluster) -> None:
    with Client(cluster) as client:
        large = client.submit(lambda: bytes(500_000_000), pure=False)
        assert client.submit(len, large).result(timeout=300) == 500_000_000
        assert len(large.result(timeout=300)) == 500_000_000
        large.release()
        assert sum(client.gather(client.map(lambda n: n % 2, range(10_000), pure=False))) == 5_000


def test_every_page_of_the_dashboard_opens_by_the_cookie_that_the_token_gives(cluster: Cluster) -> None:
    trust = ssl.create_default_context(cadata=str(cluster.security.tls_ca_file))
    trust.check_hostname = False
    browser = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=trust), urllib.request.HTTPCookieProcessor()
    )
    link, _, token = cluster.dashboard_link.partition("?")
    browser.open(f"{link}?{token}", timeout=30).close()
    for page in PAGES:
        with browser.open(f"{link.removesuffix('status')}{page}", timeout=60) as reply:
            assert (page, reply.status, bool(reply.read())) == (page, 200, True)


def test_a_script_that_comes_by_standard_input_computes(
    cluster: Cluster, told: str, environ: dict[str, str]
) -> None:
    script = f"""
import json
from distributed import Client
from prefect_coiled import Cluster
import prefect_coiled.sandbox.control as control
info = control.SandboxInfo(**json.loads({told!r}))
control.ensure_started = lambda: info
FACTOR = 21
def times(n):
    return FACTOR * n
with Cluster(name={cluster.name!r}, quiet=True) as same, Client(same) as client:
    print(client.submit(times, 2).result())
"""
    done = subprocess.run(
        [sys.executable, "-"],
        input=script,
        env=environ,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["42"], done.stderr


def test_clusters_of_two_threads_are_apart(sandbox: Sandbox, live: Live) -> None:
    before = len(live())

    def life(n: int) -> Any:
        with (
            Cluster(n_workers=1, wait_for_workers=True, quiet=True) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            return cluster.name, client.submit(sum, [n, 1]).result(timeout=300)

    with ThreadPoolExecutor(2) as pool:
        (first, one), (second, two) = pool.map(life, (1, 2))
    assert (one, two) == (2, 3)
    assert first != second
    assert len(live()) == before


def test_a_worker_spills_to_its_disk_and_one_that_takes_too_much_is_a_killed_worker(
    sandbox: Sandbox, until: Until
) -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        Cluster(n_workers=1, wait_for_workers=True, memory_limit="600 MiB", quiet=True) as cluster,
        Client(cluster) as client,
    ):
        kept = client.map(lambda n: bytes([n]) * 60_000_000, range(8), pure=False)
        assert client.gather([client.submit(len, one) for one in kept]) == [60_000_000] * 8
        until(lambda: sum(client.run(lambda dask_worker: len(dask_worker.data.slow)).values()) > 0, 60)
        del kept

        def too_much() -> int:
            held = []
            while True:
                held.append(bytearray(b"x") * 50_000_000)

        with pytest.raises(KilledWorker):
            client.submit(too_much, pure=False).result(timeout=300)
        client.wait_for_workers(1, timeout=300)
        assert client.submit(sum, [1, 2]).result(timeout=300) == 3
        assert len(cluster.workers) == 1


def test_a_worker_whose_lifetime_is_over_starts_anew_on_its_machine(sandbox: Sandbox, until: Until) -> None:
    before = set(sandbox.instances())
    options = {"lifetime": "15 s", "lifetime_restart": True}
    with (
        Cluster(n_workers=1, wait_for_workers=True, worker_options=options, quiet=True) as cluster,
        Client(cluster) as client,
    ):
        ids = lambda: set(client.run(lambda dask_worker: dask_worker.id, on_error="ignore").values())  # noqa: E731
        first = ids()
        until(lambda: (now := ids()) and not now & first, 120)
        assert len(cluster.workers) == 1
        assert len(set(sandbox.instances()) - before) == 2


@pytest.mark.parametrize(("how", "seconds"), [("scale", 0.0), ("scale", 0.7), ("adapt", 0.3), ("adapt", 3.0)])
def test_a_cluster_that_closes_while_it_grows_leaves_nothing(
    sandbox: Sandbox, live: Live, caplog: pytest.LogCaptureFixture, how: str, seconds: float
) -> None:
    before = len(live())
    failed: list[BaseException] = []
    cluster = Cluster(n_workers=1, quiet=True)

    def grow() -> None:
        try:
            if how == "scale":
                cluster.scale(3)
            else:
                cluster.adapt(minimum=3, maximum=4, interval="100ms")
        except BaseException as error:
            failed.append(error)

    with caplog.at_level(logging.WARNING):
        growing = threading.Thread(target=grow)
        growing.start()
        threading.Event().wait(seconds)  # the moment is what is tried
        cluster.close()
        growing.join(60)
    assert not growing.is_alive()
    assert failed == []
    assert "Traceback" not in caplog.text
    assert len(live()) == before
    assert cluster.removal is not None
    assert cluster.removal.is_done
