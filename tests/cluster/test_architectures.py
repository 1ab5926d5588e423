"""Machines of Graviton: all of a cluster, or an error before anything is launched."""

from __future__ import annotations

from typing import Any

import pytest
from distributed import Client

from prefect_coiled import Cluster
from prefect_coiled.errors import OptionsError
from prefect_coiled.sandbox import Sandbox


def test_a_cluster_of_graviton_has_one_image_and_works(sandbox: Sandbox, live: Any) -> None:
    with (
        Cluster(n_workers=1, arm=True, wait_for_workers=True, quiet=True) as cluster,
        Client(cluster) as client,
    ):
        machines = live()
        assert {m["Architecture"] for m in machines} == {"arm64"}
        assert len({m["ImageId"] for m in machines}) == 1
        assert all(m["InstanceType"].split(".")[0].endswith("g") for m in machines)
        assert client.submit(sum, [1, 2]).result(timeout=300) == 3


@pytest.mark.parametrize(
    "keywords",
    [
        {"scheduler_vm_types": ["m6i.large"], "worker_vm_types": ["m7g.large"]},
        {"scheduler_vm_types": ["m7g.large"], "worker_vm_types": ["m6i.large"]},
        {"scheduler_vm_types": ["m6i.large"], "arm": True},
        {"worker_vm_types": ["m7g.large", "m6i.large"]},
        {"worker_vm_types": ["m6i.large"], "arm": True},
    ],
)
def test_machines_of_two_architectures_are_refused_before_any_call(
    keywords: dict[str, Any], sandbox: Sandbox, live: Any
) -> None:
    sandbox.clear_calls()
    with pytest.raises(OptionsError, match=r"arm64|x86_64") as refused:
        Cluster(**keywords, quiet=True)
    assert "one architecture" in str(refused.value)
    assert sandbox.calls(None) == []
    assert live() == []
