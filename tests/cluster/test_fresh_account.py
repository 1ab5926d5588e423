"""A new AWS account, with AWS's rates and times: what is told at each refusal, until a cluster runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from distributed import Client

from prefect_coiled.blocks import load_account
from prefect_coiled.cluster import Cluster
from prefect_coiled.doctor import examine
from prefect_coiled.errors import AccountStateError, QuotaError
from prefect_coiled.sandbox import Sandbox


@pytest.fixture(scope="module", autouse=True)
def fresh(prefect_server: None) -> Iterator[Sandbox]:
    """What `sandbox start --profile realistic --account fresh` starts, with a quicker NAT gateway."""
    settings = {
        "profile": "realistic",
        "account": "fresh",
        "nat_pending": 5.0,
        "validation": 45.0,
        "grace": 3,
    }
    with Sandbox(settings) as running, pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: running.info)
        yield running


def small(**keywords: Any) -> Cluster:
    """A cluster of the smallest types."""
    return Cluster(worker_vm_types="t3.small", scheduler_vm_types="t3.small", quiet=True, **keywords)


def validated(start: Callable[[], Cluster]) -> Cluster:
    """Start a cluster as soon as AWS has validated the region."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            return start()
        except AccountStateError as error:
            refusal = error
        assert refusal.code == "PendingVerification"
        assert "at most four hours. Wait for AWS's mail" in str(refusal).replace(").", ".")
    raise AssertionError("the region was not validated within 5 minutes")


def test_the_default_types_are_refused_with_those_that_would_do(fresh: Sandbox) -> None:
    with pytest.raises(AccountStateError, match=r"free plan.*t3\.small") as caught:
        Cluster(n_workers=1, quiet=True)
    assert 'scheduler_vm_types="m7i-flex.large"' in str(caught.value)
    assert fresh.instances() == {}


def test_a_cluster_runs_once_the_region_is_validated(fresh: Sandbox) -> None:
    with validated(lambda: small(n_workers=1, wait_for_workers=True)) as cluster, Client(cluster) as client:
        assert client.submit(sum, [1, 2]).result() == 3


def test_as_many_workers_come_as_five_vcpus_leave_room_for(fresh: Sandbox) -> None:
    with pytest.raises(QuotaError, match=r"L-1216C47A.*5 vCPUs"):
        small(n_workers=4, wait_for_workers=True)
    with small(n_workers=4, wait_for_workers=1) as cluster:
        assert len(cluster.workers) == 1


def test_spot_machines_come_with_the_role_that_set_up_made(fresh: Sandbox) -> None:
    with small(n_workers=1, wait_for_workers=True, spot_policy="spot") as cluster:
        assert len(cluster.observed) == 1


def test_the_doctor_lives_through_the_same(fresh: Sandbox) -> None:
    fresh.set(validation=0.0)
    found = examine(load_account(None))
    assert found.ok, found
    assert found.unknown_codes == ()
    assert found.calls["ec2:RunInstances"] >= 2
    assert "ec2:RunInstances RequestLimitExceeded" not in found.codes


def test_nothing_is_left(fresh: Sandbox) -> None:
    assert {i["state"] for i in fresh.instances().values()} <= {"terminated"}
