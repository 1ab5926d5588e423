"""A new AWS account, with AWS's rates and times: what is told at each refusal, until a cluster runs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
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


def test_the_default_types_are_refused_with_those_that_would_do(fresh: Sandbox) -> None:
    with pytest.raises(AccountStateError, match=r"free plan.*t3\.small") as caught:
        Cluster(n_workers=1, quiet=True)
    assert 'scheduler_vm_types="m7i-flex.large"' in str(caught.value)
    assert fresh.instances() == {}


def test_a_patient_user_gets_to_a_cluster_by_what_the_messages_say(fresh: Sandbox) -> None:
    keywords: dict[str, Any] = {"n_workers": 2, "wait_for_workers": True}
    met: list[str] = []
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            cluster = Cluster(**keywords, quiet=True)
        except (AccountStateError, QuotaError) as error:
            met.append(error.code)
            said = str(error)
        else:
            break
        if types := re.search(r'worker_vm_types="([^"]+)" and scheduler_vm_types="([^"]+)"', said):
            keywords |= {"worker_vm_types": types[1], "scheduler_vm_types": types[2]}
        elif "use less at a time" in said:
            keywords["n_workers"] -= 1
        else:
            assert "at most four hours). Wait for AWS's mail, then run again" in said
    else:
        raise AssertionError(f"no cluster within 5 minutes: {met}")
    with cluster, Client(cluster) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    assert cluster.removal is not None
    assert cluster.removal.is_done
    assert list(dict.fromkeys(met)) == [
        "InvalidParameterCombination",
        "PendingVerification",
        "VcpuLimitExceeded",
    ]


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
    assert (found.unknown_codes, found.fields, found.lacking) == ((), {}, {})
    assert found.calls["ec2:RunInstances"] >= 2
    assert "ec2:RunInstances RequestLimitExceeded" not in found.codes


def test_nothing_is_left(fresh: Sandbox) -> None:
    assert {i["state"] for i in fresh.instances().values()} <= {"terminated"}
