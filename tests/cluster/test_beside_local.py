"""What people do with any Dask cluster gives here what it gives on Dask's own `LocalCluster`.

Each use is a function of a cluster and its client that gives what a person would look at. It runs on both.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dask
import distributed
import pytest
from distributed import Client, LocalCluster, fire_and_forget, wait

from prefect_coiled import Cluster

Use = Callable[[Any, Client, Path], Any]
USES: list[Use] = []


def use(function: Use) -> Use:
    USES.append(function)
    return function


@pytest.fixture(scope="module")
def here(cluster: Cluster) -> Iterator[tuple[Any, Client]]:
    with Client(cluster) as client:
        yield cluster, client


@pytest.fixture(scope="module")
def there() -> Iterator[tuple[Any, Client]]:
    with (
        patch.dict(os.environ),  # a nanny sets variables in the process that has it
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield cluster, client


def tell(name: str, one: Use, of: tuple[Any, Client], folder: Path) -> Any:
    """What a use gives, or the type of what it raises."""
    (folder / name).mkdir()
    try:
        with of[1].as_current():
            return one(*of, folder / name)
    except Exception as error:
        return type(error), str(error)


def patiently(check: Callable[[], Any], seconds: float = 300) -> Any:
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
    return found


def inc(x: int) -> int:
    return x + 1


@use
def one_client_is_given_again(cluster: Any, client: Client, folder: Path) -> Any:
    return cluster.get_client() is client, client.cluster is cluster, distributed.get_client() is client


@use
def a_file_tells_of_the_scheduler(cluster: Any, client: Client, folder: Path) -> Any:
    client.write_scheduler_file(str(folder / "scheduler.json"))
    told = json.loads((folder / "scheduler.json").read_text())
    security = getattr(cluster, "security", None)
    with Client(
        scheduler_file=str(folder / "scheduler.json"), security=security, set_as_default=False
    ) as other:
        return told["address"] == cluster.scheduler_address, other.submit(inc, 1).result()


@use
def workers_are_waited_for(cluster: Any, client: Client, folder: Path) -> Any:
    cluster.wait_for_workers(2, timeout=300)
    client.wait_for_workers(2, timeout=300)
    with contextlib.suppress(TimeoutError):
        client.wait_for_workers(3, timeout=0.2)
        return "there is a third"
    return len(cluster.observed), len(cluster.requested), len(cluster.plan), len(cluster.workers)


@use
def a_module_is_uploaded(cluster: Any, client: Client, folder: Path) -> Any:
    (folder / "uploaded_by_hand.py").write_text("def value():\n    return 42\n")
    client.upload_file(str(folder / "uploaded_by_hand.py"))

    def look() -> Any:
        import uploaded_by_hand  # type: ignore[import-not-found]

        return uploaded_by_hand.value()

    return sorted(client.run(look).values())


@use
def versions_are_alike(cluster: Any, client: Client, folder: Path) -> Any:
    found = client.get_versions(check=True)
    return sorted(found), [w["packages"] == found["client"]["packages"] for w in found["workers"].values()]


@use
def a_report_of_performance_is_written(cluster: Any, client: Client, folder: Path) -> Any:
    with distributed.performance_report(filename=str(folder / "report.html")):
        client.gather(client.map(lambda x: x, range(4), pure=False))
    text = (folder / "report.html").read_text()
    return "Task Stream" in text, "Scheduler Logs" in text


@use
def plugins_of_all_kinds(cluster: Any, client: Client, folder: Path) -> Any:
    class OnWorker(distributed.WorkerPlugin):
        name = "beside-worker"

        def setup(self, worker: Any) -> None:
            worker.of_plugin = 1

        def teardown(self, worker: Any) -> None:
            worker.of_plugin = 2

    class OnNanny(distributed.NannyPlugin):
        name = "beside-nanny"

        def setup(self, nanny: Any) -> None:
            nanny.of_plugin = 3

    class OnScheduler(distributed.SchedulerPlugin):
        name = "beside-scheduler"

        async def start(self, scheduler: Any) -> None:
            scheduler.of_plugin = 4

    for plugin in (OnWorker(), OnNanny(), OnScheduler()):
        client.register_plugin(plugin)
    found = [
        sorted(client.run(lambda dask_worker: dask_worker.of_plugin).values()),
        sorted(client.run(lambda dask_worker: dask_worker.of_plugin, nanny=True).values()),
        client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.of_plugin),
    ]
    client.unregister_worker_plugin("beside-worker")
    client.unregister_worker_plugin("beside-nanny", nanny=True)
    client.unregister_scheduler_plugin("beside-scheduler")
    return [*found, sorted(client.run(lambda dask_worker: dask_worker.of_plugin).values())]


@use
def the_scheduler_tells_of_itself(cluster: Any, client: Client, folder: Path) -> Any:
    told = client.scheduler_info()
    worker = next(iter(told["workers"].values()))
    services = {name: type(port).__name__ for name, port in told["services"].items()}
    # And how long a client may be silent, which is ours.
    plain = sorted(told.keys() - {"prefect_coiled_silence"})
    return told["type"], plain, worker["type"], sorted(worker), services


@use
def coordination(cluster: Any, client: Client, folder: Path) -> Any:
    distributed.Variable("beside", client=client).set(7)
    queue = distributed.Queue("beside", client=client)

    def work(n: int) -> Any:
        with (
            distributed.Lock("beside"),
            distributed.Semaphore(name="beside-s"),
            distributed.MultiLock(["beside-a", "beside-b"]),
        ):
            distributed.Queue("beside").put(n)
            distributed.Event("beside").set()
            return distributed.Variable("beside").get(timeout=10)

    distributed.Semaphore(max_leases=1, name="beside-s")
    values = client.gather(client.map(work, range(4), pure=False))
    distributed.Event("beside", client=client).wait(timeout=10)
    return values, sorted(queue.get(timeout=10) for _ in range(4))


@use
def results_as_they_come(cluster: Any, client: Client, folder: Path) -> Any:
    futures = client.map(inc, range(6), pure=False)
    found = sorted(result for _, result in distributed.as_completed(futures, with_results=True))
    batches = distributed.as_completed(client.map(inc, range(6), pure=False)).batches()
    return found, sorted(f.result() for batch in batches for f in batch)


@use
def logging_and_printing_are_forwarded(cluster: Any, client: Client, folder: Path) -> Any:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("beside.forwarded"), Keep()
    logger.addHandler(handler)
    client.forward_logging("beside.forwarded", level=logging.INFO)
    try:
        client.submit(lambda: logging.getLogger("beside.forwarded").warning("heard"), pure=False).result()
        patiently(lambda: lines)
    finally:
        client.unforward_logging("beside.forwarded")
        logger.removeHandler(handler)
    return lines


@use
def events_are_logged_and_subscribed_to(cluster: Any, client: Client, folder: Path) -> Any:
    heard: list[Any] = []
    client.subscribe_topic("beside", lambda event: heard.append(event[1]))
    client.submit(lambda: distributed.get_worker().log_event("beside", {"a": 1}), pure=False).result()
    client.log_event("beside", "two")
    patiently(lambda: len(heard) == 2)
    client.unsubscribe_topic("beside")
    kept = [event for _, event in client.get_events("beside")]
    return [sorted(event) for event in heard if event != "two"], "two" in heard, len(kept)


@use
def profiles_and_streams(cluster: Any, client: Client, folder: Path) -> Any:
    with distributed.get_task_stream(client) as stream:
        client.gather(client.map(inc, range(5), pure=False))
    sampler = distributed.diagnostics.MemorySampler()
    with sampler.sample("beside", interval=0.05):
        client.submit(time.sleep, 0.3, pure=False).result()
    return len(stream.data), sorted(client.profile()), list(sampler.to_pandas().columns)


@use
def the_scheduler_of_dask_is_a_client(cluster: Any, client: Client, folder: Path) -> Any:
    with dask.config.set(scheduler=client):
        one = dask.delayed(inc)(1).compute()
    two = client.compute(dask.delayed(inc)(2), sync=True)
    three = client.persist(dask.delayed(inc)(3)).compute()
    return one, two, three, client.get({"x": (inc, 4)}, "x"), dask.compute(dask.delayed(inc)(5))


@use
def waiting_has_an_end(cluster: Any, client: Client, folder: Path) -> Any:
    future = client.submit(time.sleep, 3, pure=False)
    try:
        with pytest.raises(TimeoutError):
            wait(future, timeout=0.2)
        with pytest.raises(TimeoutError):
            future.result(timeout=0.2)
    finally:
        client.cancel(future)
    try:
        return future.result(timeout=300)
    except Exception as error:
        return type(error), future.status


@use
def failures_are_told_and_tried_again(cluster: Any, client: Client, folder: Path) -> Any:
    marker = distributed.Variable("beside-fails", client=client)
    marker.set(True)

    def fails() -> int:
        if distributed.Variable("beside-fails").get():
            raise ValueError("as it should")
        return 5

    future = client.submit(fails, pure=False)
    with pytest.raises(ValueError, match="as it should"):
        future.result()
    told = type(future.exception()), future.traceback() is not None, future.status
    marker.set(False)
    client.retry([future])
    return told, future.result()


@use
def an_executor_maps(cluster: Any, client: Client, folder: Path) -> Any:
    with client.get_executor(pure=False) as executor:
        return list(executor.map(inc, range(4))), executor.submit(inc, 4).result()


@use
def coroutines_run_on_the_cluster_loop(cluster: Any, client: Client, folder: Path) -> Any:
    async def answer() -> Any:
        return cluster.asynchronous, await cluster.scheduler_comm.ncores() != {}

    return cluster.sync(answer), cluster.asynchronous, cluster.status.name, cluster.loop is client.loop


@use
def logs_are_chosen(cluster: Any, client: Client, folder: Path) -> Any:
    return (
        list(cluster.get_logs(cluster=True, scheduler=False, workers=False)),
        list(cluster.get_logs(cluster=False, scheduler=True, workers=False)),
        list(cluster.get_logs(cluster=False, scheduler=False, workers=False)),
        len(cluster.get_logs(cluster=False, scheduler=False, workers=True)),
        [len(cluster.get_logs(cluster=False, scheduler=False, workers=[a])) for a in client.nthreads()],
        len(client.get_worker_logs()),
        len(client.get_scheduler_logs()) > 0,
    )


@use
def a_client_has_settings_of_its_own(cluster: Any, client: Client, folder: Path) -> Any:
    with Client(
        cluster,
        timeout="10s",
        heartbeat_interval="1s",
        direct_to_workers=True,
        name="mine",
        set_as_default=False,
        connection_limit=8,
    ) as other:
        future = other.scatter(4)
        return (
            other.submit(inc, future).result(),
            other.id.startswith("mine"),
            distributed.get_client() is client,
        )


@use
def a_client_is_not_pickled(cluster: Any, client: Client, folder: Path) -> Any:
    with contextlib.suppress(TypeError):
        return type(pickle.loads(pickle.dumps(client))).__name__
    return "TypeError"


@use
def the_address_is_enough_with_the_security(cluster: Any, client: Client, folder: Path) -> Any:
    with Client(cluster.scheduler_address, security=cluster.security, set_as_default=False) as other:
        return other.submit(inc, 1).result(), sorted(other.nthreads().values())


@use
def tasks_are_annotated(cluster: Any, client: Client, folder: Path) -> Any:
    address = sorted(client.nthreads())[0]
    with dask.annotate(workers=[address], priority=10, retries=2):
        one = client.persist(dask.delayed(inc)(10))
        value = one.compute()
    future = client.submit(inc, 20, workers=[address], allow_other_workers=False, priority=5, pure=False)
    wait(future)
    return value, client.who_has([future])[future.key] == (address,)


@use
def the_state_is_dumped(cluster: Any, client: Client, folder: Path) -> Any:
    client.dump_cluster_state(str(folder / "state"), format="yaml")
    return [path.name for path in folder.iterdir()], (folder / "state.yaml").stat().st_size > 1000


@use
def memory_is_managed(cluster: Any, client: Client, folder: Path) -> Any:
    client.amm.stop()
    states = [client.amm.running()]
    client.amm.start()
    states.append(client.amm.running())
    data = client.scatter(list(range(10)), broadcast=True)
    client.replicate(data, n=2)
    both = all(len(has) == 2 for has in client.who_has(data).values())
    client.rebalance(data)
    return states, both, client.gather(data), len(client.has_what()), client.run_on_scheduler(lambda: True)


@use
def frames_are_shuffled_from_worker_to_worker(cluster: Any, client: Client, folder: Path) -> Any:
    import dask.dataframe as dd
    import pandas as pd

    frame = pd.DataFrame({"a": [n % 7 for n in range(700)], "b": range(700)})
    with dask.config.set({"dataframe.shuffle.method": "p2p"}):
        parts = dd.from_pandas(frame, npartitions=4).shuffle("a", npartitions=3)
        merged = parts.merge(dd.from_pandas(frame, npartitions=2), on="b")
        return int(parts["b"].sum().compute()), len(merged.compute())


@use
def actors_hold_state(cluster: Any, client: Client, folder: Path) -> Any:
    class Counter:
        n = 0

        def add(self) -> int:
            self.n += 1
            return self.n

    counter = client.submit(Counter, actor=True).result()
    return [counter.add().result() for _ in range(3)], counter.n


@use
def tasks_start_tasks(cluster: Any, client: Client, folder: Path) -> Any:
    def outer(n: int) -> Any:
        with distributed.worker_client() as inner:
            return sum(inner.gather(inner.map(lambda x: x + n, range(3))))

    def seceding(n: int) -> Any:
        inner = distributed.get_client()
        futures = inner.map(lambda x: x * n, range(3))
        distributed.secede()
        results = inner.gather(futures)
        distributed.rejoin()
        return results

    return client.gather([client.submit(outer, 10), client.submit(seceding, 2)])


@use
def what_is_fired_is_done(cluster: Any, client: Client, folder: Path) -> Any:
    fire_and_forget(client.submit(lambda: distributed.Event("beside-fired").set(), pure=False))
    return distributed.Event("beside-fired", client=client).wait(timeout=20)


@use
def datasets_are_published(cluster: Any, client: Client, folder: Path) -> Any:
    client.publish_dataset(beside=client.persist(dask.delayed(inc)(1)))
    found = "beside" in client.list_datasets(), client.get_dataset("beside").compute()
    client.unpublish_dataset("beside")
    return found, "beside" in client.list_datasets()


@use
def what_is_at_work_is_seen(cluster: Any, client: Client, folder: Path) -> Any:
    futures = client.map(time.sleep, [1.0, 1.0], pure=False)
    patiently(lambda: any(client.processing().values()))
    patiently(lambda: client.call_stack(futures))
    seen = len(client.processing())
    wait(futures)
    client.set_metadata(["beside", "a"], 1)
    return (
        seen,
        client.get_metadata(["beside", "a"]),
        sorted(client.ncores().values()),
        len(client.story(futures[0])) > 0,
    )


@use
def progress_is_shown(cluster: Any, client: Client, folder: Path) -> Any:
    futures = client.map(inc, range(5), pure=False)
    distributed.progress(futures, notebook=False)
    return client.gather(futures)


@use
def adapting_takes_its_words(cluster: Any, client: Client, folder: Path) -> Any:
    adaptive = cluster.adapt(minimum=2, maximum=2, interval="2s", wait_count=7, target_duration="9s")
    found = (
        adaptive.minimum,
        adaptive.maximum,
        adaptive.interval,
        adaptive.wait_count,
        adaptive.target_duration,
    )
    adaptive.stop()
    return found, len(cluster.plan)


@use
def it_is_shown_in_a_notebook(cluster: Any, client: Client, folder: Path) -> Any:
    html = cluster._repr_html_()
    return (
        cluster.name in html,
        "Workers" in html,
        client._repr_html_() != "",
        client.dashboard_link == cluster.dashboard_link,
    )


@use
def it_is_numbers_that_scale(cluster: Any, client: Client, folder: Path) -> Any:
    import numpy as np

    counts = []
    for wish in ({"n": np.int64(2)}, {"n": 2.0}, {"cores": 2}, {"cores": np.float64(1.5)}):
        cluster.scale(**wish)
        counts.append(len(cluster.plan))
    return counts


@use
def workers_are_started_anew(cluster: Any, client: Client, folder: Path) -> Any:
    (one, _) = sorted(client.nthreads())
    told = client.restart_workers([one], timeout=60)
    client.wait_for_workers(2, timeout=300)
    return (
        list(told.values()),
        client.submit(inc, 1, pure=False).result(),
        len(client.nthreads()),
        len(cluster.plan),
    )


@use
def a_task_starts_all_anew(cluster: Any, client: Client, folder: Path) -> Any:
    before = set(client.run(os.getpid).values())
    fire_and_forget(client.submit(lambda: distributed.get_client().restart(timeout=300), pure=False))

    def others() -> bool:
        with contextlib.suppress(OSError):
            now = set(client.run(os.getpid, on_error="ignore").values())
            return len(now) == 2 and not now & before
        return False

    patiently(others)
    return client.submit(inc, 5, pure=False).result(), len(client.nthreads()), len(cluster.plan)


@pytest.mark.parametrize("one", USES, ids=lambda one: one.__name__)
def test_it_gives_what_a_local_cluster_gives(
    one: Use, here: tuple[Any, Client], there: tuple[Any, Client], tmp_path: Path
) -> None:
    expected = tell("there", one, there, tmp_path)
    assert tell("here", one, here, tmp_path) == expected
