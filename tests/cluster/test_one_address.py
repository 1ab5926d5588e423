"""Where the platform has one loopback address, all machines share it and ports are taken as they are free."""

from __future__ import annotations

import pytest
from distributed import Client

from prefect_coiled.cluster import Cluster
from prefect_coiled.sandbox import Sandbox


def test_two_clusters_live_side_by_side_on_one_address(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sandbox({"grace": 3}, addresses="one") as sandbox:
        monkeypatch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: sandbox.info)
        with (
            Cluster(n_workers=1, wait_for_workers=True, quiet=True) as one,
            Cluster(n_workers=1, wait_for_workers=True, quiet=True) as other,
            Client(one) as first,
            Client(other) as second,
        ):
            assert first.submit(sum, [1, 2]).result() == 3
            assert second.submit(sum, [3, 4]).result() == 7
            links = {cluster.dashboard_link.partition("/status")[0] for cluster in (one, other)}
            assert len(links) == 2
            assert {link.rpartition(":")[0] for link in links} == {"https://127.0.0.1"}
        assert {i["state"] for i in sandbox.instances().values()} == {"terminated"}
