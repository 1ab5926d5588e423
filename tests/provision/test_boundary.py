"""A permissions boundary holds whoever has the set-up policy, and the machines' role, to what it allows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr

from prefect_coiled.aws import caller, iam_role
from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.foresight import foresee
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.errors import AccessDeniedError, ProvisionError
from prefect_coiled.events import EVERYWHERE, Event
from prefect_coiled.plan.machine_policies import boundary_of, instance_policy
from prefect_coiled.plan.policies import iam_policies
from prefect_coiled.provision import destroy_account, set_up_account
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session, use_session

NUMBER = "123456789012"
BOUNDARY, LIMITS = boundary_of("bound", NUMBER, services=["dynamodb"])
SHIPPED = iam_policies("bound", aws_account_id=NUMBER)
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
        iam.put_role_policy(RoleName="theirs", PolicyName="denies", PolicyDocument=json.dumps(EVERYTHING))
        iam.attach_role_policy(RoleName="theirs", PolicyArn=f"arn:aws:iam::{NUMBER}:policy/wide")
        yield running


@pytest.fixture(scope="module")
def door(own_sandbox: Sandbox) -> Callable[..., Aws]:
    """The door of a new user with some policies."""

    def open_as(name: str, *policies: Any, boundary: str = "", account: str = "bound") -> Aws:
        key, secret = own_sandbox.add_user(name, *policies)
        return Account(
            account,
            credentials=CredentialSource(key, SecretStr(secret)),
            endpoint_url=own_sandbox.endpoint,
            sandbox=own_sandbox.info,
            permissions_boundary=boundary,
        ).door("us-east-1")

    return open_as


def set_up(aws: Aws) -> None:
    """All that an account has beside its network."""
    with use_session(Session(aws)):
        set_up_account(aws.account, "us-east-1", network=False, registry="docker_hub")


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


def made_for(sandbox: Sandbox, account: str) -> str:
    """The ARN of the boundary that was made for an account: its role has it, and it says what it should."""
    arn, limits = boundary_of(account, NUMBER)
    assert bound_by(sandbox, account) == arn
    held = sandbox.client("iam").get_policy_version(PolicyArn=arn, VersionId="v1")
    assert held["PolicyVersion"]["Document"] == limits
    return arn


def test_set_up_makes_the_role_with_the_boundary(own_sandbox: Sandbox, installer: Aws) -> None:
    assert bound_by(own_sandbox) == BOUNDARY
    assert iam_role.attach_policy(installer, "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
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
        "room for a wider version": lambda: iam.delete_policy_version(PolicyArn=BOUNDARY, VersionId="v1"),
        "another policy": lambda: iam.create_policy(PolicyName="x", PolicyDocument=all_of_it),
        "removing it": lambda: iam.delete_policy(PolicyArn=BOUNDARY),
        "a policy that denies taken from a role without one": lambda: iam.delete_role_policy(
            RoleName="theirs", PolicyName="denies"
        ),
        "the same that is attached": lambda: iam.detach_role_policy(RoleName="theirs", PolicyArn=wide),
        "a job's policy for the machines": lambda: iam.attach_role_policy(
            PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess", **named
        ),
        "a policy of one's own for the machines": lambda: iam.attach_role_policy(PolicyArn=wide, **named),
        "somebody else who may be a machine": lambda: iam.update_assume_role_policy(
            PolicyDocument=trust, **named
        ),
        "more for a role without a boundary": lambda: iam.put_role_policy(
            RoleName="theirs", PolicyName="x", PolicyDocument=all_of_it
        ),
        "a policy of AWS's for it": lambda: iam.attach_role_policy(
            RoleName="theirs", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"
        ),
        "another role": lambda: iam.create_role(RoleName="x", AssumeRolePolicyDocument=trust, Tags=tags),
    }


# What the guards leave to other policies: it holds as far as the boundary allows.
_WITHIN = {
    "a job's policy for the machines",
    "another policy",
    "a policy of one's own for the machines",
    "somebody else who may be a machine",
}


@pytest.mark.parametrize(
    ("attack", "also"),
    [
        (attack, also)
        for attack in attacks(None)
        for also in ((), (EVERYTHING,))
        if not (also and attack in _WITHIN)
    ],
    ids=lambda value: value if isinstance(value, str) else "and everything else" if value else "",
)
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
    theirs = f"coiled-{NUMBER}-us-east-1-other-hash"
    for bucket in ("data-of-the-team", theirs):
        own_sandbox.client("s3").create_bucket(Bucket=bucket)
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
        lambda: machine("ec2").describe_vpcs(),
        lambda: machine("s3").list_objects_v2(Bucket=theirs),
        lambda: machine("s3").put_bucket_policy(Bucket=theirs, Policy="{}"),
        lambda: machine("ssm").get_parameter(Name="/prefect-coiled/other/c/uid/node/worker"),
    ):
        with pytest.raises(ClientError, match=r"no permissions boundary allows|AccessDenied"):
            call()
    assert machine("dynamodb").list_tables()["TableNames"] == []
    assert machine("s3").list_objects_v2(Bucket="data-of-the-team")["KeyCount"] == 0


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What was told of the steps."""
    heard: list[str] = []

    def hear(event: Event) -> None:
        heard.append(event.text)

    EVERYWHERE.subscribe(hear)
    yield heard
    EVERYWHERE.unsubscribe(hear)


def test_a_role_from_before_goes_on_until_somebody_asks_for_the_boundary(
    own_sandbox: Sandbox, door: Callable[..., Aws], installer: Aws, told: list[str]
) -> None:
    own_sandbox.client("iam").delete_role_permissions_boundary(RoleName="bound")
    set_up(installer)
    assert bound_by(own_sandbox) == ""
    (text,) = {text for text in told if "without a permissions boundary" in text}
    assert "`prefect-coiled setup iam --account bound --user NAME --apply`" in text
    assert f"account edit bound --permissions-boundary {BOUNDARY}`" in text
    # What a version changes cannot be written before, and it is said what to do.
    own_sandbox.client("iam").delete_role_policy(RoleName="bound", PolicyName="coiled-instance")
    with pytest.raises(AccessDeniedError, match="account edit bound --permissions-boundary arn:aws:iam::"):
        set_up(installer)
    # As `account edit` says it.
    set_up(door("upgrader", *SHIPPED_FOR_KEYS, boundary=BOUNDARY))
    assert bound_by(own_sandbox) == BOUNDARY
    told.clear()
    set_up(installer)
    assert not [text for text in told if "permissions boundary" in text]


def test_the_first_set_up_makes_the_boundary_and_its_maker_cannot_change_it(
    own_sandbox: Sandbox, door: Callable[..., Aws], prefect_server: None
) -> None:
    shipped = iam_policies("fresh", aws_account_id=NUMBER)
    aws = door("early", shipped["setup"], shipped["ongoing"], account="fresh")
    set_up(aws)
    arn = made_for(own_sandbox, "fresh")
    own = aws.session.client("iam", endpoint_url=own_sandbox.endpoint)
    with pytest.raises(ClientError, match="EntityAlreadyExists"):
        own.create_policy(PolicyName="coiled-boundary-fresh", PolicyDocument=json.dumps(EVERYTHING))
    with pytest.raises(ClientError, match="AccessDenied"):
        own.create_policy_version(PolicyArn=arn, PolicyDocument=json.dumps(EVERYTHING), SetAsDefault=True)
    with pytest.raises(ClientError, match="AccessDenied"):
        own.delete_policy(PolicyArn=arn)


def test_where_it_may_not_make_the_boundary_nothing_is_made_and_its_maker_is_named(
    own_sandbox: Sandbox, door: Callable[..., Aws], prefect_server: None
) -> None:
    shipped = iam_policies("closed", aws_account_id=NUMBER)
    never = {"Statement": [{"Effect": "Deny", "Action": "iam:CreatePolicy", "Resource": "*"}]}
    aws = door(
        "closed",
        shipped["setup"],
        shipped["ongoing"],
        {"Version": "2012-10-17", **never},
        account="closed",
    )
    with (
        use_session(Session(aws)),
        pytest.raises(AccessDeniedError, match="setup iam --account closed") as no,
    ):
        set_up_account("closed", "us-east-1")
    assert "--permissions-boundary none" in str(no.value)
    ec2, iam = own_sandbox.client("ec2"), own_sandbox.client("iam")
    wanted = [{"Name": "tag:coiled-account", "Values": ["closed"]}]
    assert ec2.describe_vpcs(Filters=wanted)["Vpcs"] == []
    assert "closed" not in {role["RoleName"] for role in iam.list_roles()["Roles"]}


@pytest.mark.long
def test_an_administrator_who_sets_up_makes_the_boundary_and_takes_it_away(
    own_sandbox: Sandbox, door: Callable[..., Aws], prefect_server: None
) -> None:
    aws = door("administrator", EVERYTHING, account="whole")
    set_up(aws)
    arn, iam = made_for(own_sandbox, "whole"), own_sandbox.client("iam")
    # What an administrator changed stays; and a holder of the policies leaves it at the end.
    wider = boundary_of("whole", NUMBER, services=["dynamodb"])[1]
    iam.create_policy_version(PolicyArn=arn, PolicyDocument=json.dumps(wider), SetAsDefault=True)
    set_up(aws)
    shipped = iam_policies("whole", aws_account_id=NUMBER)
    holder = door("holder", shipped["setup"], shipped["ongoing"], account="whole")
    with use_session(Session(holder)):
        removal = destroy_account("whole", "us-east-1")
    assert removal.is_done
    assert f"aws iam delete-policy --policy-arn {arn}" in removal.left[arn]
    assert iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"] == "v2"
    set_up(holder)
    with use_session(Session(aws)):
        assert destroy_account("whole", "us-east-1").left == {}
    with pytest.raises(ClientError, match="NoSuchEntity"):
        iam.get_policy(PolicyArn=arn)


@pytest.mark.long
def test_an_account_may_do_without_if_it_says_so(
    own_sandbox: Sandbox, door: Callable[..., Aws], prefect_server: None
) -> None:
    shipped = iam_policies("open", aws_account_id=NUMBER, permissions_boundary="none")
    aws = door("opener", shipped["setup"], shipped["ongoing"], boundary="none", account="open")
    set_up(aws)
    assert bound_by(own_sandbox, "open") == ""
    assert foresee(aws, caller.find_caller(aws)) == ()
    with use_session(Session(aws)):
        assert destroy_account("open", "us-east-1").left == {}
    # Not with policies that want one.
    wanting = iam_policies("open", aws_account_id=NUMBER)
    aws = door("careless", wanting["setup"], wanting["ongoing"], boundary="none", account="open")
    with pytest.raises(AccessDeniedError, match="account edit open --clear boundary"):
        set_up(aws)


def test_a_boundary_of_ones_own_has_to_be_there(door: Callable[..., Aws], prefect_server: None) -> None:
    missing = f"arn:aws:iam::{NUMBER}:policy/nowhere"
    shipped = iam_policies("named", aws_account_id=NUMBER, permissions_boundary=missing)
    aws = door("namer", shipped["setup"], shipped["ongoing"], boundary=missing, account="named")
    with pytest.raises(ProvisionError, match="there is no such policy"):
        set_up(aws)


def test_a_launch_goes_on_with_a_role_of_an_earlier_version_and_a_set_up_does_not(
    own_sandbox: Sandbox, door: Callable[..., Aws], installer: Aws, told: list[str]
) -> None:
    made = json.loads(instance_policy("bound", NUMBER))
    older = json.dumps({**made, "Statement": [s for s in made["Statement"] if s["Sid"] == "ShipLogs"]})
    own_sandbox.client("iam").put_role_policy(
        RoleName="bound", PolicyName=iam_role.POLICY_NAME, PolicyDocument=older
    )
    user = door("launcher", SHIPPED["ongoing"])
    with use_session(Session(user)):
        # What a launch asks for, of what all clusters share.
        assert set_up_account("bound", "us-east-1", every_zone=False, network=False).account == "bound"
        assert [
            text
            for text in told
            if "`prefect-coiled setup region --account bound --region us-east-1`" in text
        ]
        with pytest.raises(AccessDeniedError, match="iam:PutRolePolicy"):
            set_up_account("bound", "us-east-1", network=False)
    set_up(installer)
    told.clear()
    with use_session(Session(user)):
        set_up_account("bound", "us-east-1", every_zone=False, network=False)
    assert not [text for text in told if "earlier version" in text]
