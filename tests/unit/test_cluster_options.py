"""The keywords of a cluster: how they become a plan, and that the runner takes all of them."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from prefect_coiled.aws.credentials import Account
from prefect_coiled.cluster import Cluster
from prefect_coiled.cluster.request import Request
from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.task_runner.cluster_options import ClusterOptions

RUNNERS_OWN = {"self", "keywords", "asynchronous", "loop", "report", "stop", "defaults"}


def plan(**keywords: Any) -> ClusterSpec:
    account = Account("team", sandbox=None)
    return Request(**{"defaults": {}, **keywords}).spec(account, "me", own_cidr=lambda: "192.0.2.1/32")


def test_machines_without_any_way_out_are_refused_unless_the_network_is_ones_own() -> None:
    with pytest.raises(OptionsError, match=r"egress 'none'.*SSM"):
        plan(backend_options={"egress": "none"})
    own = {"network_id": "vpc-0123456789abcdef0", "scheduler_subnet_id": "subnet-0123456789abcdef0"}
    assert plan(backend_options={"egress": "none", "network": own}).network is not None


def test_me_is_the_callers_address_and_nothing_else_is_asked_for_it() -> None:
    spec = plan(backend_options={"firewall": {"ports": [8786], "cidr": "me"}})
    assert [rule.cidr for rule in spec.ingress] == ["192.0.2.1/32"]


def test_gpu_workers_are_not_spot_machines_unless_asked() -> None:
    assert plan(worker_gpu=1).spot_policy == "on-demand"
    assert plan(worker_gpu=1).worker_types[0] == "g4dn.xlarge"
    assert plan(worker_gpu=1, spot=True).spot_policy == "spot"


def test_a_spec_survives_its_short_form() -> None:
    spec = plan(worker_options={"resources": {"gpu": 1}})
    assert ClusterSpec.decode(spec.encode()) == spec
    assert len(spec.encode()) < 4096


def test_the_runners_keywords_are_those_of_the_cluster() -> None:
    cluster = set(inspect.signature(Cluster.__init__).parameters)
    request = {field.name for field in dataclasses.fields(Request)}
    assert set(ClusterOptions.__annotations__) == (cluster | request) - RUNNERS_OWN
