"""Where a network lets nothing out but one port, clients and browsers come by it; the others stay closed."""

from __future__ import annotations

import os
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from distributed import Client

from prefect_coiled import Cluster
from prefect_coiled.errors import OptionsError
from prefect_coiled.sandbox import Sandbox


def test_clients_and_the_dashboard_share_a_port(sandbox: Sandbox) -> None:
    with (
        Cluster(n_workers=1, wait_for_workers=True, quiet=True, scheduler_port=443) as cluster,
        Client(cluster) as client,
    ):
        port = urlsplit(cluster.scheduler_address).port
        link = urlsplit(cluster.dashboard_link)
        assert link.port == port
        if sandbox.addresses == "many" and os.geteuid() == 0:  # else it is no port that the sandbox may take
            assert port == 443
        assert client.submit(lambda: bytes(5_000_000)).result() == bytes(5_000_000)
        page = f"https://{link.netloc}/status"
        with httpx.Client(verify=False) as browser:
            assert browser.get(page).status_code == 401
            token = parse_qs(link.query)["token"][0]
            assert browser.get(page, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        (rules,) = cluster.started().held_ingress()
        assert set(rules.ports) == {port}
        # A worker comes by the scheduler's own port, inside.
        assert client.run_on_scheduler(lambda dask_scheduler: urlsplit(dask_scheduler.address).port) != port
        cluster.set_ingress([{"ports": [8786], "cidr": "203.0.113.0/24"}])
        (rules,) = cluster.started().held_ingress()
        assert (rules.ports, rules.source) == ((port,), "203.0.113.0/24")


@pytest.mark.parametrize("port", [22, 8786, 8787])
def test_ports_that_have_their_own_use_are_refused(port: int) -> None:
    with pytest.raises(OptionsError, match="has its own use"):
        Cluster(scheduler_port=port)
