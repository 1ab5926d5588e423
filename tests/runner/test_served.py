"""What happens beside a flow's cluster: tasks that are served elsewhere, secrets that change."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster
from distributed.security import Security
from prefect import flow, task
from prefect.blocks.system import Secret
from prefect.settings import get_current_settings
from prefect.variables import Variable

from prefect_coiled.errors import TaskFailedError
from prefect_coiled.task_runner import CoiledTaskRunner

from .conftest import APART
from .served import later

ROOT = Path(__file__).parents[2]
# On workers that have no way to the API there is one.
WAYS = ("always",) if APART else ("never", "always")


@pytest.fixture(params=WAYS)
def by(request: pytest.FixtureRequest, dask_cluster: LocalCluster, security: Security) -> CoiledTaskRunner:
    """A runner whose tasks ask the API themselves, or through the flow's process."""
    dask_cluster.sync(dask_cluster._correct_state)
    return CoiledTaskRunner(
        address=dask_cluster.scheduler_address,
        client_kwargs={"security": security},
        api_relay=request.param,
    )


@pytest.fixture(scope="module")
def server_of_tasks(needs_a_server: None) -> Iterator[int]:
    """A process that serves `later`; its id."""
    environ = {
        **os.environ,
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-m", "tests.runner.served"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as made:
        yield made.pid
        made.terminate()


def test_a_task_that_is_delayed_is_run_by_who_serves_it(by: CoiledTaskRunner, server_of_tasks: int) -> None:
    @task
    def here(pair: tuple[int, int]) -> int:
        return pair[0] + 1

    @flow(task_runner=by)
    def delays() -> Any:
        delayed = later.delay(4)
        # Its future is taken by a task on the cluster, as any other.
        return delayed.result(), here.submit(delayed).result()

    (doubled, process), after = delays()
    assert (doubled, process, after) == (8, server_of_tasks, 9)


def test_a_task_that_delays_another_is_told_by_the_relay_to_do_it_in_the_flow(
    by: CoiledTaskRunner, server_of_tasks: int
) -> None:
    if by.api_relay == "never":
        pytest.skip("a task that asks the API itself may")

    @task
    def delays() -> Any:
        return later.delay(5).result(timeout=300)

    @flow(task_runner=by)
    def whole() -> Any:
        return delays.submit().result()

    # The client's own error cannot be pickled: its words arrive all the same.
    with pytest.raises(TaskFailedError, match=r"PrefectHTTPStatusError: .*Do it in the flow"):
        whole()


def test_a_secret_that_changes_while_a_cluster_runs_is_the_new_one_in_the_next_task(
    by: CoiledTaskRunner,
) -> None:
    def change(text: str) -> None:
        secret: Any = Secret(value=text)
        secret.save("rotated", overwrite=True, _sync=True)
        Variable.set("rotated", text, overwrite=True, _sync=True)  # type: ignore[call-arg]

    @task
    def reads() -> tuple[str, Any]:
        secret: Any = Secret.load("rotated", _sync=True)
        return secret.get(), Variable.get("rotated", _sync=True)  # type: ignore[call-arg]

    @flow(task_runner=by)
    def watches() -> list[Any]:
        found = []
        for text in ("first", "second"):
            change(text)
            found += [future.result() for future in [reads.submit() for _ in range(4)]]
        return found

    assert watches() == [("first", "first")] * 4 + [("second", "second")] * 4
