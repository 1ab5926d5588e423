"""Keys of an account that are replaced while a cluster runs: what is to be done goes on by the new ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cluster import launch as launching
from prefect_coiled.cluster import launched
from prefect_coiled.cluster.launch import launch
from prefect_coiled.cluster.launched import Launched
from prefect_coiled.cluster.request import Request
from prefect_coiled.errors import CredentialsError, OptionsError
from prefect_coiled.options.ingress import IngressRule
from prefect_coiled.sandbox import Sandbox

EVERYTHING = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
}
Rotate = Callable[[], None]


@pytest.fixture
def block(judged: Sandbox, account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Account]]:
    """What the account's block says: the last of these. Its keys are those of a user."""
    iam = judged.client("iam")
    keys = judged.add_user("rotating", EVERYTHING)
    said = [replace(account, credentials=CredentialSource(keys[0], SecretStr(keys[1])))]
    for room in (launching, launched):
        monkeypatch.setattr(room, "load_account", lambda slug: said[-1])
    yield said
    for key in iam.list_access_keys(UserName="rotating")["AccessKeyMetadata"]:
        iam.delete_access_key(UserName="rotating", AccessKeyId=key["AccessKeyId"])
    for policy in iam.list_attached_user_policies(UserName="rotating")["AttachedPolicies"]:
        iam.detach_user_policy(UserName="rotating", PolicyArn=policy["PolicyArn"])
        iam.delete_policy(PolicyArn=policy["PolicyArn"])
    iam.delete_user(UserName="rotating")


@pytest.fixture
def rotate(judged: Sandbox, block: list[Account]) -> Rotate:
    """Give the user another key, and the block too; the one that was is gone."""

    def do(tell: bool = True) -> None:
        iam, old = judged.client("iam"), block[-1].credentials.access_key_id
        made = iam.create_access_key(UserName="rotating")["AccessKey"]
        new = CredentialSource(made["AccessKeyId"], SecretStr(made["SecretAccessKey"]))
        if tell:
            block.append(replace(block[-1], credentials=new))
        iam.delete_access_key(UserName="rotating", AccessKeyId=old)

    return do


@pytest.fixture
def cluster(block: list[Account], judged: Sandbox) -> Launched:
    return launch(
        Request({}, name="rotated", n_workers=2, allow_ingress_from="192.0.2.7/32"), threading.Event()
    )


def machines(sandbox: Sandbox) -> list[str]:
    return [i["state"] for i in sandbox.instances().values() if i["state"] != "terminated"]


def test_a_cluster_is_scaled_and_removed_by_the_keys_that_the_account_has_by_then(
    cluster: Launched, judged: Sandbox, rotate: Rotate
) -> None:
    rotate()
    added = cluster.add(1)
    assert len(added) == 1
    rotate()
    assert len(cluster.listed_workers()) == 3
    rotate()
    assert cluster.logs([added[0].instance_id])[added[0].instance_id] is not None
    rotate()
    rules = cluster.set_ingress([IngressRule(ports=(8786,), cidr="192.0.2.9/32")])
    rotate()
    assert (
        {rule.cidr for rule in rules} == {"192.0.2.9/32"} <= {held.source for held in cluster.held_ingress()}
    )
    rotate()
    assert cluster.timeline()
    rotate()
    cluster.terminate_workers([added[0].instance_id])
    rotate()
    ids = cluster.terminate([])
    rotate()
    assert cluster.remove(ids, 60.0).is_done
    assert machines(judged) == []


def test_a_budget_is_held_by_the_keys_that_the_account_has_by_then(
    cluster: Launched, judged: Sandbox, rotate: Rotate
) -> None:
    cluster.monthly_budget = 0.1
    rotate()
    with pytest.raises(OptionsError, match=r"1 more worker for cluster 'rotated'.*monthly budget of \$0\.1"):
        cluster.add(1)
    cluster.monthly_budget = 100.0
    rotate()
    assert len(cluster.add(1)) == 1


def test_keys_that_are_gone_and_not_replaced_are_said(
    cluster: Launched, judged: Sandbox, rotate: Any, block: list[Account]
) -> None:
    rotate(tell=False)
    with pytest.raises(CredentialsError):
        cluster.terminate([])
