"""A permissions boundary holds whoever has the set-up policy, and the machines' role, to what it allows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr

from prefect_coiled.aws import caller, iam_role
from prefect_coiled.aws.account import Account
from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.foresight import foresee
from prefect_coiled.errors import AccessDeniedError
from prefect_coiled.plan.policies import boundary_of, iam_policies
from prefect_coiled.provision import destroy_account, set_up_account
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session, use_session

NUMBER = "123456789012"
BOUNDARY, LIMITS = boundary_of("bound", NUMBER, services=["dynamodb"])
SHIPPED = iam_policies("bound", aws_account_id=NUMBER, permissions_boundary=BOUNDARY)
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
ANYBODY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
}


@pytest.fixture(scope="module")
def own_sandbox() -> Iterator[Sandbox]:
    """A sandbox in which IAM judges, and in which an administrator has made the boundary."""
    with Sandbox({"boot": "none", "iam": "on"}) as running:
        iam = running.client("iam")
        for name, document in (("coiled-boundary-bound", LIMITS), ("wide", EVERYTHING)):
            iam.create_policy(PolicyName=name, PolicyDocument=json.dumps(document))
        iam.create_role(RoleName="theirs", AssumeRolePolicyDocument=json.dumps(ANYBODY))
        yield running


@pytest.fixture(scope="module")
def door(own_sandbox: Sandbox) -> Callable[..., Aws]:
    """The door of a new user with some policies."""

    def open_as(name: str, *policies: Any, boundary: str = BOUNDARY) -> Aws:
        key, secret = own_sandbox.add_user(name, *policies)
        return Account(
            "bound",
            credentials=CredentialSource(key, SecretStr(secret)),
            endpoint_url=own_sandbox.endpoint,
            sandbox=own_sandbox.info,
            permissions_boundary=boundary,
        ).door("us-east-1")

    return open_as


def set_up(aws: Aws) -> None:
    """All that an account has beside its network."""
    with use_session(Session(aws)):
        set_up_account("bound", "us-east-1", network=False, registry="docker_hub")


SHIPPED_FOR_KEYS = (SHIPPED["setup"], SHIPPED["ongoing"])


@pytest.fixture(scope="module")
def installer(prefect_server: None, door: Callable[..., Aws]) -> Aws:
    """Who has the set-up policy, with the account set up."""
    aws = door("installer", *SHIPPED_FOR_KEYS)
    set_up(aws)
    return aws


def bound_by(sandbox: Sandbox, name: str = "bound") -> str:
    role = sandbox.client("iam").get_role(RoleName=name)["Role"]
    return str(role.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn", ""))


def test_set_up_makes_the_role_with_the_boundary(own_sandbox: Sandbox, installer: Aws) -> None:
    assert bound_by(own_sandbox) == BOUNDARY
    assert iam_role.attach_policy(installer, "arn:aws:iam::aws:policy/AmazonDynamoDBFullAccess")
    assert foresee(installer, caller.find_caller(installer)) == ()
    set_up(installer)  # again, it changes nothing
    assert bound_by(own_sandbox) == BOUNDARY


def attacks(iam: Any) -> dict[str, Callable[[], Any]]:
    """How somebody with the set-up policy could make an administrator of itself."""
    trust, all_of_it = json.dumps(ANYBODY), json.dumps(EVERYTHING)
    tags = [{"Key": "owner", "Value": "coiled"}, {"Key": "coiled-account", "Value": "bound"}]
    named = {"RoleName": "bound"}

    def anew(**boundary: str) -> Any:
        for policy in iam.list_attached_role_policies(**named)["AttachedPolicies"]:
            iam.detach_role_policy(PolicyArn=policy["PolicyArn"], **named)
        iam.remove_role_from_instance_profile(InstanceProfileName="bound", **named)
        iam.delete_role_policy(PolicyName="coiled-instance", **named)
        iam.delete_role(**named)
        return iam.create_role(AssumeRolePolicyDocument=trust, Tags=tags, **named, **boundary)

    wide = f"arn:aws:iam::{NUMBER}:policy/wide"
    return {
        "a role without a boundary": anew,
        "a role with another boundary": lambda: anew(PermissionsBoundary=wide),
        "taking the boundary away": lambda: iam.delete_role_permissions_boundary(**named),
        "another boundary": lambda: iam.put_role_permissions_boundary(PermissionsBoundary=wide, **named),
        "a wider version of it": lambda: iam.create_policy_version(
            PolicyArn=BOUNDARY, PolicyDocument=all_of_it, SetAsDefault=True
        ),
        "an older version of it": lambda: iam.set_default_policy_version(PolicyArn=BOUNDARY, VersionId="v1"),
        "removing it": lambda: iam.delete_policy(PolicyArn=BOUNDARY),
        "more for a role without a boundary": lambda: iam.put_role_policy(
            RoleName="theirs", PolicyName="x", PolicyDocument=all_of_it
        ),
        "a policy of AWS's for it": lambda: iam.attach_role_policy(
            RoleName="theirs", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"
        ),
        "another role": lambda: iam.create_role(RoleName="x", AssumeRolePolicyDocument=trust, Tags=tags),
    }


@pytest.mark.parametrize("attack", attacks(None))
@pytest.mark.parametrize("also", [(), (EVERYTHING,)], ids=["the set-up policy", "and everything else"])
def test_nobody_with_the_set_up_policy_makes_itself_an_administrator(
    own_sandbox: Sandbox, door: Callable[..., Aws], installer: Aws, attack: str, also: tuple[Any, ...]
) -> None:
    aws = door(f"attacker-{abs(hash((attack, also != ())))}", *SHIPPED_FOR_KEYS, *also)
    iam = aws.session.client("iam", endpoint_url=own_sandbox.endpoint)
    with pytest.raises(ClientError, match="AccessDenied"):
        attacks(iam)[attack]()
    roles = {role["RoleName"] for role in own_sandbox.client("iam").list_roles()["Roles"]}
    assert "x" not in roles
    if "bound" not in roles:
        set_up(installer)
    assert bound_by(own_sandbox) == BOUNDARY


def test_a_role_that_was_given_everything_may_do_what_the_boundary_allows(
    own_sandbox: Sandbox, installer: Aws
) -> None:
    iam = installer.session.client("iam", endpoint_url=own_sandbox.endpoint)
    iam.put_role_policy(RoleName="bound", PolicyName="all", PolicyDocument=json.dumps(EVERYTHING))
    iam.attach_role_policy(RoleName="bound", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    own_sandbox.client("iam").update_assume_role_policy(RoleName="bound", PolicyDocument=json.dumps(ANYBODY))
    given = own_sandbox.client("sts").assume_role(
        RoleArn=f"arn:aws:iam::{NUMBER}:role/bound", RoleSessionName="machine"
    )["Credentials"]

    def machine(service: str) -> Any:
        keys = (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        return own_sandbox.client(service, **dict(zip(names, keys, strict=True)))

    name = "/prefect-coiled/bound/c/uid/node/worker"
    own_sandbox.client("ssm").put_parameter(Name=name, Value="key", Type="SecureString")
    assert machine("ssm").get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"] == "key"
    for call in (
        lambda: machine("iam").create_user(UserName="mine"),
        lambda: machine("ec2").describe_instances(),
        lambda: machine("s3").list_buckets(),
        lambda: machine("ssm").get_parameter(Name="/prefect-coiled/other/c/uid/node/worker"),
    ):
        with pytest.raises(ClientError, match=r"no permissions boundary allows|AccessDenied"):
            call()
    assert machine("dynamodb").list_tables()["TableNames"] == []


def test_a_role_from_before_gets_the_boundary(own_sandbox: Sandbox, installer: Aws) -> None:
    own_sandbox.client("iam").delete_role_permissions_boundary(RoleName="bound")
    set_up(installer)
    assert bound_by(own_sandbox) == BOUNDARY


def test_an_account_without_the_boundary_that_its_policies_want_is_told(
    door: Callable[..., Aws], installer: Aws
) -> None:
    with use_session(Session(installer)):
        destroy_account("bound", "us-east-1")  # which its policies permit
    aws = door("forgetful", *SHIPPED_FOR_KEYS, boundary="")
    with pytest.raises(AccessDeniedError, match="account edit bound --permissions-boundary ARN"):
        set_up(aws)
