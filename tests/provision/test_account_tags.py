"""Tags of an account's own are on all that is made for it, from the call that makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_coiled.aws import baked_images
from prefect_coiled.aws.bucket import find_bucket, own_name
from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS, find
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.errors import OptionsError
from prefect_coiled.events import EVERYWHERE, Event
from prefect_coiled.plan.policies import iam_policies
from prefect_coiled.plan.tags import from_aws
from prefect_coiled.provision import destroy_account, set_up_account
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session, use_session

# Characters that EC2 alone takes, and a key that differs from ours by case.
GIVEN = {"cost (center)": "4 & 7", "Owner": "ops", "team": "research"}
IN_EC2, PLAIN = GIVEN, {"cost _center_": "4 _ 7", "Owner": "ops", "team": "research"}
# IAM does not tell `Owner` from `owner`, which is ours.
IN_IAM = {key: value for key, value in PLAIN.items() if key != "Owner"}
OURS = {"owner": "coiled", "coiled-account": "tagged"}
NETWORK = (
    "vpc",
    "internet gateway",
    "subnet",
    "route table",
    "s3 endpoint",
    "elastic address",
    "nat gateway",
)


@pytest.fixture(scope="module")
def own_sandbox() -> Iterator[Sandbox]:
    """A sandbox in which IAM judges."""
    with Sandbox({"boot": "none", "iam": "on"}) as running:
        yield running


@pytest.fixture
def door(own_sandbox: Sandbox, prefect_server: None) -> Iterator[Callable[..., Aws]]:
    """The door of who has the policies that are shipped, for an account with tags of its own."""

    def open_with(**tags: str) -> Aws:
        shipped = iam_policies("tagged")
        key, secret = own_sandbox.add_user("installer", shipped["setup"], shipped["ongoing"])
        return Account(
            "tagged",
            credentials=CredentialSource(key, SecretStr(secret)),
            endpoint_url=own_sandbox.endpoint,
            sandbox=own_sandbox.info,
            tags=tags,
        ).door("us-east-1")

    yield open_with
    own_sandbox.reset()


def has(tags: dict[str, str], wanted: dict[str, str]) -> bool:
    return {**wanted, **OURS}.items() <= tags.items()


def test_all_that_a_set_up_makes_has_the_accounts_tags(
    own_sandbox: Sandbox, door: Callable[..., Aws]
) -> None:
    aws = door(**GIVEN)
    sent: list[str] = []

    def heard(event: Event) -> None:
        if event.kind == "call":
            sent.append(event.action)

    EVERYWHERE.subscribe(heard)
    try:
        with use_session(Session(aws)):
            set_up_account("tagged", "us-east-1", "us-east-1a")
    finally:
        EVERYWHERE.unsubscribe(heard)
    assert "ec2:CreateVpc" in sent
    assert "ec2:CreateTags" not in sent
    for kind in NETWORK:
        made = find(aws, KINDS[kind])
        assert made, kind
        assert all(has(from_aws(one["Tags"]), IN_EC2) for one in made), kind
    iam = own_sandbox.client("iam")
    for tagged in (
        iam.get_role(RoleName="tagged")["Role"],
        iam.get_instance_profile(InstanceProfileName="tagged")["InstanceProfile"],
        iam.get_policy(PolicyArn="arn:aws:iam::123456789012:policy/coiled-boundary-tagged")["Policy"],
    ):
        labels = from_aws(tagged["Tags"])
        assert has(labels, IN_IAM)
        assert "Owner" not in labels
    (group,) = find(aws, KINDS["log group"])
    assert has(group["Labels"], PLAIN)
    bucket = find_bucket(aws, own_name(aws))
    assert bucket is not None
    assert has(from_aws(bucket["Tags"]), PLAIN)
    (repository,) = find(aws, KINDS["repository"])
    assert has(from_aws(repository["Tags"]), PLAIN)
    with use_session(Session(aws)):
        destroy_account("tagged", "us-east-1")
    assert find(aws, KINDS["vpc"]) == []


def test_a_baked_image_and_its_snapshot_have_the_accounts_tags(
    own_sandbox: Sandbox, door: Callable[..., Aws], monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = door(**GIVEN)
    asked: list[dict[str, Any]] = []

    def call(action: str, what: str, **parameters: Any) -> dict[str, Any]:
        asked.append(parameters)
        return {"ImageId": "ami-1"}

    monkeypatch.setattr(aws, "call", call)
    baked_images.create_baked_image(aws, "i-1", "image", "abc", "3.11")
    ((image, snapshot),) = (one["TagSpecifications"] for one in asked)
    for one in (image, snapshot):
        assert has(from_aws(one["Tags"]), {**IN_EC2, "coiled-environment": "abc", "coiled-python": "3.11"})


@pytest.mark.parametrize("key", ["coiled-account", "Coiled-Cluster", "coiled-zone", "aws:mine"])
def test_a_tag_that_is_ours_is_told_before_a_set_up_makes_anything(
    own_sandbox: Sandbox, door: Callable[..., Aws], key: str
) -> None:
    aws = door(**{key: "x"})
    with use_session(Session(aws)), pytest.raises(OptionsError, match=rf"tags\['{key}'\]"):
        set_up_account("tagged", "us-east-1")
    assert find(aws, KINDS["vpc"]) == []
    assert own_sandbox.client("ssm").describe_parameters()["Parameters"] == []
    assert own_sandbox.client("iam").list_roles()["Roles"] == []


@pytest.mark.long
def test_what_is_there_without_them_stays_as_it_is(own_sandbox: Sandbox, door: Callable[..., Aws]) -> None:
    aws = door()
    with use_session(Session(aws)):
        set_up_account("tagged", "us-east-1", egress="none")
    before = find(aws, KINDS["vpc"])
    later = Account(
        "tagged",
        credentials=CredentialSource("sandbox", SecretStr(own_sandbox.info.secret_access_key)),
        endpoint_url=own_sandbox.endpoint,
        sandbox=own_sandbox.info,
        tags=GIVEN,
    ).door("us-east-1")
    with use_session(Session(later)):
        set_up_account("tagged", "us-east-1")
    assert find(later, KINDS["vpc"]) == before
    (gateway,) = find(later, KINDS["nat gateway"])
    assert has(from_aws(gateway["Tags"]), IN_EC2)
