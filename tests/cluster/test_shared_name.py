"""A cluster's name is shared by whoever asks for it, at once or one after the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prefect_coiled import Cluster
from prefect_coiled.sandbox import Sandbox

Live = Callable[[], list[dict[str, Any]]]
Until = Callable[..., Any]


def test_two_that_ask_for_a_name_at_once_share_one_cluster(sandbox: Sandbox, live: Live) -> None:
    def make(_: int) -> Cluster:
        return Cluster(n_workers=1, wait_for_workers=True, name="asked-twice", quiet=True)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(make, range(2))
    try:
        assert one.scheduler_address == other.scheduler_address
        assert sorted([one.shutdown_on_close, other.shutdown_on_close]) == [False, True]
        assert len(live()) == 2
    finally:
        one.close()
        other.close()
    assert live() == []


def test_a_name_is_free_again_once_its_cluster_has_ended_by_itself(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    left = Cluster(n_workers=0, name="again", quiet=True, shutdown_on_close=False, cluster_timeout="3 s")
    left.close()
    until(lambda: live() == [], 60)
    with Cluster(n_workers=0, name="again", quiet=True) as cluster:
        assert cluster.launched is not None
        assert not cluster.launched.attached
    assert live() == []
