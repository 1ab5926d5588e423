"""As many flow runs as a busy schedule makes in an hour: 200, each with a cluster; few may run at once.

python -m pytest tests/soak     # a few
make soak                       # 200
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.runtime import flow_run

from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cluster.launch import launch
from prefect_coiled.cluster.request import Request
from prefect_coiled.provision import slots
from prefect_coiled.sandbox import Sandbox
from tests.matrix.lives import what_there_is

from .conftest import WHOLE

# PREFECT_COILED_RUNS=60 asks for so many, on machines that boot as fast as in the few.
RUNS = int(os.environ.get("PREFECT_COILED_RUNS") or (200 if WHOLE else 12))
AT_ONCE, ALLOWED = 8, 3


@pytest.mark.timeout(7200)
def test_runs_of_a_busy_schedule_take_turns_and_leave_nothing(
    laid: Sandbox, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "TRY_AGAIN", 1.0)
    name = f"prefect-coiled:{account.slug}"
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=ALLOWED))
    baseline, lock = what_there_is(laid), threading.Lock()
    alive: set[str] = set()
    most: list[int] = []

    @flow(name="scheduled", persist_result=False)
    def scheduled() -> tuple[str, str]:
        made = launch(Request({}, n_workers=1, allow_ingress_from="192.0.2.7/32"), threading.Event())
        with lock:
            alive.add(made.record.uid)
            most.append(len(alive))
        ids = made.terminate([])
        assert made.remove(ids, 120.0).is_done
        with lock:
            alive.remove(made.record.uid)
        made.let_go()
        return made.record.name, str(flow_run.id)

    def one(context: Context) -> tuple[str, str]:
        found: Any = context.run(scheduled)
        return tuple(found)  # type: ignore[return-value]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        told = list(pool.map(one, [copy_context() for _ in range(RUNS)]))
    names, runs = zip(*told, strict=True)
    assert len(set(names)) == RUNS, "a name of its own for each"
    assert len(set(runs)) == RUNS
    assert max(most) <= ALLOWED
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name(name).active_slots == 0
        client.delete_global_concurrency_limit_by_name(name)
    assert what_there_is(laid) == baseline
