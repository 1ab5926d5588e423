"""A whole life with exactly the shipped policies: what they permit is enough, and none of it is idle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_coiled.aws.credentials import Account, CredentialSource
from prefect_coiled.aws.door import Aws
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.policies import iam_policies
from prefect_coiled.provision import add_workers, create_cluster, delete_cluster, set_up_account, sweep
from prefect_coiled.provision.sessions import open_door
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session, use_session

NUMBER = "123456789012"


@pytest.fixture
def judged(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.reset()
    sandbox.set(boot="none", iam="on")
    yield sandbox
    sandbox.set(iam="off")
    sandbox.reset()


@pytest.fixture
def door(judged: Sandbox) -> Callable[..., Aws]:
    """The door of a user with the policies of the given names."""

    def open_as(name: str, *policies: Any) -> Aws:
        key, secret = judged.add_user(name, *policies)
        keys = CredentialSource(key, SecretStr(secret))
        account = Account("team", credentials=keys, endpoint_url=judged.endpoint, sandbox=judged.info)
        return open_door(account, "us-east-1")

    return open_as


def test_life(door: Callable[..., Aws], spec: Callable[..., ClusterSpec], judged: Sandbox) -> None:
    shipped = iam_policies("team", aws_account_id=NUMBER)
    with use_session(Session(door("installer", shipped["setup"], shipped["ongoing"]))):
        set_up_account("team", "us-east-1")
    with use_session(Session(door("user", shipped["ongoing"]))):
        planned = spec(name="life")
        record = create_cluster(planned)
        add_workers(planned, record, 1, "more")
        delete_cluster("team", "us-east-1", "life")
        sweep("team", "us-east-1")
    denied = [d for d in judged.decisions() if not d["allowed"]]
    assert denied == []
    print(sorted({d["action"] for d in judged.decisions()}))
