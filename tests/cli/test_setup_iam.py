"""`setup iam` and `policies`: the policies to whom they are for, printed or done."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from prefect_coiled import set_backend_options
from prefect_coiled.blocks import loading
from prefect_coiled.errors import AccountError
from prefect_coiled.plan.actions import ADMINISTRATION
from prefect_coiled.plan.machine_policies import boundary_of
from prefect_coiled.plan.policies import iam_policies
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.saved_accounts import reset_account

from .conftest import of, run


@pytest.mark.long
def test_a_role_that_the_policy_was_written_for_verifies_itself(aws: Sandbox) -> None:
    iam = aws.client("iam")
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = iam.create_role(RoleName="dask", Path="/teams/", AssumeRolePolicyDocument=document)["Role"]
    allow = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}
    key, secret = aws.add_user("assumer", {"Version": "2012-10-17", "Statement": [allow]})
    keys = {"aws_access_key_id": key, "aws_secret_access_key": secret}
    set_backend_options("as-role", **keys, role_arn=role["Arn"], endpoint_url=aws.endpoint)
    try:
        iam.put_role_policy(
            RoleName="dask", PolicyName="all", PolicyDocument=json.dumps(iam_policies("as-role")["ongoing"])
        )
        mute = run("check", "--account", "as-role")
        assert mute.exit_code == 1
        command = f"policies ongoing --account as-role --role-arn {role['Arn']}"
        assert f"`prefect-coiled {command}`" in mute.output
        assert "The account is not set up here yet." in mute.output
        iam.put_role_policy(RoleName="dask", PolicyName="all", PolicyDocument=of(command))
        iam.put_role_policy(
            RoleName="dask", PolicyName="setup", PolicyDocument=of("policies setup --account as-role")
        )
        able = run("check", "--account", "as-role")
        assert able.exit_code == 0, able.output
        assert able.output.endswith("Ready.\n")
    finally:
        reset_account("as-role")


@pytest.mark.parametrize(
    ("flags", "first", "last"),
    [
        (
            ("--user", "dask"),
            "aws iam create-user --user-name dask",
            "aws iam create-access-key --user-name dask",
        ),
        (("--group", "dask"), "aws iam create-policy", "aws iam attach-group-policy --group-name dask"),
        (
            ("--role", "arn:aws:iam::123456789012:role/teams/dask"),
            "aws iam create-policy",
            "aws iam attach-role-policy --role-name dask",
        ),
    ],
    ids=["user", "group", "role"],
)
def test_the_commands_that_make_and_attach_the_policies_are_printed(
    flags: tuple[str, str], first: str, last: str
) -> None:
    lines = of("setup iam --account team --aws-account-id 123456789012", *flags).splitlines()
    assert lines[0].startswith(first)
    assert lines[-1].startswith(last)
    words = [shlex.split(line) for line in lines]
    made = {w[4]: json.loads(w[6]) for w in words if w[2] == "create-policy"}
    limits = made.pop("coiled-boundary-team")
    assert limits == boundary_of("team", "123456789012")[1]
    assert set(made) == {"coiled-setup-team", "coiled-ongoing-team"}
    shipped = iam_policies("team", aws_account_id="123456789012")
    assert made["coiled-setup-team"] == shipped["setup"]
    arns = [w[-1] for w in words if w[2].startswith("attach-")]
    assert arns == [f"arn:aws:iam::123456789012:policy/{name}" for name in made]
    # A user asks by a variable, a role by its name.
    assert ("OwnRole" in str(made["coiled-ongoing-team"])) == (flags[0] == "--role")


SINGLE_SIGN_ON = "arn:aws:iam::123456789012:role/aws-reserved/sso.amazonaws.com/AWSReservedSSO_Dask_0123"


def test_a_role_of_identity_center_gets_its_policies_by_its_permission_set() -> None:
    *lines, last = of(f"setup iam --account team --role {SINGLE_SIGN_ON}").splitlines()
    made = [shlex.split(line)[4] for line in lines if line.startswith("aws iam create-policy ")]
    assert made == ["coiled-boundary-team", "coiled-setup-team", "coiled-ongoing-team"]
    assert not any("attach-role-policy" in line for line in lines)
    assert last.startswith("# The role is of IAM Identity Center")
    assert "add coiled-setup-team and coiled-ongoing-team to its permission set" in last


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ((), "needs one of"),
        (("--user", "a", "--group", "b"), "needs one of"),
        (("--user", "a"), "needs --aws-account-id"),
        (("--user", "a b", "--aws-account-id", "123456789012"), "must be of letters"),
        (("--user", "a", "--aws-account-id", "1234"), "12 digits"),
        (("--role", "dask", "--aws-account-id", "123456789012"), "must look like arn:aws:iam::"),
        (("--user", "a", "--yes"), "with --apply alone"),
        (("--group", "a", "--key", "--apply"), "none of a group"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_commands_for_nobody_are_refused(flags: tuple[str, ...], text: str) -> None:
    result = run("setup", "iam", *flags)
    assert result.exit_code == 1
    assert text in result.output


@pytest.fixture
def administrator(
    aws: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Result]]:
    """Runs `setup iam --apply` for an account that nobody saved, by the profile of an administrator."""
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    name = f"admin-{tmp_path.name.replace('_', '-')}"[:64]
    key, secret = aws.add_user(name, {"Version": "2012-10-17", "Statement": [everything]})
    poor, poorer = aws.add_user(f"poor-{name}"[:64], iam_policies("applied")["ongoing"])
    profiles = {"admin": (key, secret), "poor": (poor, poorer)}
    (tmp_path / "config").write_text(
        "".join(
            f"[profile {which}]\nendpoint_url={aws.endpoint}\n"
            f"aws_access_key_id={k}\naws_secret_access_key={s}\n"
            for which, (k, s) in profiles.items()
        )
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    iam = aws.client("iam")

    def go(*flags: str, profile: str | None = "admin", answer: str | None = None) -> Result:
        named = ("--profile", profile) if profile else ()
        return run("setup", "iam", "--account", "applied", "--apply", *named, *flags, answer=answer)

    yield go
    for policy in iam.list_policies(Scope="Local")["Policies"]:
        if policy["PolicyName"] not in {f"coiled-{one}-applied" for one in ("setup", "ongoing", "boundary")}:
            continue
        found = iam.list_entities_for_policy(PolicyArn=policy["Arn"])
        for kind in ("User", "Group", "Role"):
            for one in found[f"Policy{kind}s"]:
                detach = getattr(iam, f"detach_{kind.lower()}_policy")
                detach(**{f"{kind}Name": one[f"{kind}Name"]}, PolicyArn=policy["Arn"])
        for version in iam.list_policy_versions(PolicyArn=policy["Arn"])["Versions"]:
            if not version["IsDefaultVersion"]:
                iam.delete_policy_version(PolicyArn=policy["Arn"], VersionId=version["VersionId"])
        iam.delete_policy(PolicyArn=policy["Arn"])


APPLIED = {f"arn:aws:iam::123456789012:policy/coiled-{phase}-applied" for phase in ("setup", "ongoing")}


def test_a_role_of_identity_center_is_left_as_it_is(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    iam = aws.client("iam")
    made = administrator("--role", SINGLE_SIGN_ON, "--yes")
    assert made.exit_code == 0, made.output
    assert "coiled-ongoing-applied to its permission set" in " ".join(made.output.split())
    for arn in APPLIED:
        assert iam.list_entities_for_policy(PolicyArn=arn)["PolicyRoles"] == []


@pytest.mark.long
def test_a_user_is_made_with_policies_and_a_key_that_works(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    iam = aws.client("iam")
    refused = administrator("--user", "dask-applied", answer="n\n")
    assert refused.exit_code == 1
    assert "policy coiled-setup-applied: to make" in refused.output
    assert "dask-applied" not in {u["UserName"] for u in iam.list_users()["Users"]}
    made = administrator("--user", "dask-applied", "--key", answer="y\n")
    assert made.exit_code == 0, made.output
    assert "AWS account 123456789012 in us-east-1" in made.output
    attached = iam.list_attached_user_policies(UserName="dask-applied")["AttachedPolicies"]
    assert {p["PolicyArn"] for p in attached} == APPLIED
    # The key that was printed is one by which the account can be saved and checked.
    words = dict(line.split(": ", 1) for line in made.output.splitlines() if line.count(": ") == 1)
    keys = (words["Access key id"], words["Secret access key"])
    set_backend_options(
        "applied", aws_access_key_id=keys[0], aws_secret_access_key=keys[1], endpoint_url=aws.endpoint
    )
    try:
        assert "would be denied" not in run("check", "--account", "applied").output
    finally:
        reset_account("applied")
    again = administrator("--user", "dask-applied", "--key")
    assert "Nothing is missing." in again.output
    assert "access key of user dask-applied: is there" in again.output
    assert keys[1] not in again.output
    assert len(iam.list_access_keys(UserName="dask-applied")["AccessKeyMetadata"]) == 1


def test_no_key_is_made_where_none_was_asked_for(aws: Sandbox, administrator: Callable[..., Result]) -> None:
    # IAM may not know at once what it has just made.
    rule = {
        "effect": "error",
        "action": "AttachUserPolicy",
        "code": "NoSuchEntity",
        "status": 404,
        "times": 1,
    }
    aws.faults([rule])
    result = administrator("--user", "keyless", "--yes")
    assert [s["action"] for s in aws.struck()] == ["AttachUserPolicy"]
    aws.faults([])
    assert result.exit_code == 0, result.output
    assert "ecret access key" not in result.output
    assert aws.client("iam").list_access_keys(UserName="keyless")["AccessKeyMetadata"] == []


def test_without_a_profile_it_is_done_by_the_credentials_of_the_account(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    missing = administrator("--user", "by-account", "--yes", profile=None)
    assert missing.exit_code == 1
    assert "account 'applied': no block of that name" in missing.output
    keys = {"aws_access_key_id": "sandbox", "aws_secret_access_key": aws.info.secret_access_key}
    set_backend_options("applied", **keys, endpoint_url=aws.endpoint)
    try:
        result = administrator("--user", "by-account", "--yes", profile=None)
    finally:
        reset_account("applied")
    assert result.exit_code == 0, result.output
    assert "access key sandbox: AWS account 123456789012" in result.output
    assert aws.info.secret_access_key not in result.output
    attached = aws.client("iam").list_attached_user_policies(UserName="by-account")["AttachedPolicies"]
    assert {p["PolicyArn"] for p in attached} == APPLIED


def test_a_group_and_a_role_get_the_policies_once(aws: Sandbox, administrator: Callable[..., Result]) -> None:
    iam = aws.client("iam")
    missing = administrator("--group", "analysts", "--yes")
    assert missing.exit_code == 1
    assert "group 'analysts': is not there" in missing.output
    iam.create_group(GroupName="analysts")
    assert administrator("--group", "analysts", "--yes").exit_code == 0
    attached = iam.list_attached_group_policies(GroupName="analysts")["AttachedPolicies"]
    assert {p["PolicyArn"] for p in attached} == APPLIED
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = iam.create_role(RoleName="applied-role", AssumeRolePolicyDocument=document)["Role"]
    # The policy names the role, so that it can verify itself: the one that is there is renewed.
    result = administrator("--role", role["Arn"], "--yes")
    assert result.exit_code == 0, result.output
    assert "policy coiled-setup-applied: is there" in result.output
    assert "policy coiled-ongoing-applied: renewed" in result.output
    attached = iam.list_attached_role_policies(RoleName="applied-role")["AttachedPolicies"]
    assert {p["PolicyArn"] for p in attached} == APPLIED
    assert "Nothing is missing." in administrator("--role", role["Arn"]).output


def test_nobody_gets_the_policies_of_an_account_that_is_named_as_a_role_of_others(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    iam = aws.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    iam.create_role(RoleName="applied", AssumeRolePolicyDocument=document)
    try:
        result = administrator("--user", "would-be", "--yes")
    finally:
        iam.delete_role(RoleName="applied")
    assert result.exit_code == 1
    assert "role (applied)" in result.output
    assert "would-be" not in {u["UserName"] for u in iam.list_users()["Users"]}


def test_a_boundary_is_made_with_the_policies_and_attached_to_nobody(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    arn = "arn:aws:iam::123456789012:policy/coiled-boundary-applied"
    iam = aws.client("iam")
    flags = ("--user", "bounded", "--service", "dynamodb", "--yes")
    result = administrator(*flags)
    assert result.exit_code == 0, result.output
    held = iam.get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]["Document"]
    assert held["Statement"][-1]["Action"] == ["dynamodb:*", "s3:*"]
    assert iam.get_policy(PolicyArn=arn)["Policy"]["AttachmentCount"] == 0
    attached = iam.list_attached_user_policies(UserName="bounded")["AttachedPolicies"]
    assert {p["PolicyArn"] for p in attached} == APPLIED
    assert "Nothing is missing." in administrator(*flags).output
    # Printed, it is the same.
    printed = "policies boundary --account applied --aws-account-id 123456789012 --service dynamodb"
    assert json.loads(of(printed)) == held
    bound = json.loads(of("policies setup --account applied --aws-account-id 123456789012"))
    guards = [s for s in bound["Statement"] if s["Effect"] == "Deny"]
    assert [s["Sid"] for s in guards] == ["KeepRoleBound", "KeepBoundary"]
    assert guards[0]["Condition"] == {"ArnNotLike": {"iam:PermissionsBoundary": arn}}
    lines = of("setup iam --account applied --user bounded --aws-account-id 123456789012").splitlines()
    assert lines[1].startswith("aws iam create-policy --policy-name coiled-boundary-applied ")
    assert lines[2] == (
        "# Only if there is a role applied already: aws iam put-role-permissions-boundary "
        f"--role-name applied --permissions-boundary {arn}"
    )
    refused = administrator("--user", "bounded", "--service", "iam", "--yes")
    assert refused.exit_code == 1
    assert "would let a machine give itself everything else" in refused.output


def test_a_role_from_before_is_bound_and_what_else_it_has_is_said(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    iam = aws.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    tags = [{"Key": "owner", "Value": "coiled"}, {"Key": "coiled-account", "Value": "applied"}]
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    named = {"RoleName": "applied"}
    iam.create_role(AssumeRolePolicyDocument=document, Tags=tags, **named)
    attached = "arn:aws:iam::aws:policy/AmazonDynamoDBFullAccess"
    iam.attach_role_policy(PolicyArn=attached, **named)
    try:
        result = administrator("--user", "upgraded", "--yes")
        assert result.exit_code == 0, result.output
        assert "permissions boundary of role applied: to make" in result.output
        assert f"as far as the boundary allows: {attached}" in " ".join(result.output.split())
        bound = iam.get_role(**named)["Role"]["PermissionsBoundary"]["PermissionsBoundaryArn"]
        assert bound == "arn:aws:iam::123456789012:policy/coiled-boundary-applied"
        assert "Nothing is missing." in administrator("--user", "upgraded", "--yes").output
    finally:
        iam.detach_role_policy(PolicyArn=attached, **named)
        iam.delete_role(**named)


def test_without_a_boundary_it_is_said_what_is_given_up(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    printed = of("setup iam --account applied --user u --aws-account-id 123456789012 --no-boundary")
    assert "boundary-applied" not in printed
    assert "# Without a boundary, whoever has the set-up policy can give the machines' role" in printed
    assert "# Then: prefect-coiled account edit applied --permissions-boundary none" in printed
    policy = run("policies", "setup", "--account", "applied", "--no-boundary")
    assert "as good as an administrator" in policy.stderr
    assert "PermissionsBoundary" not in policy.stdout
    power = run("policies", "setup", "--permissions-boundary", "arn:aws:iam::aws:policy/PowerUserAccess")
    assert "The boundary is a policy of AWS's own" in power.stderr
    assert "iam::aws:policy/PowerUserAccess" in power.stdout
    for flags in (("policies", "boundary"), ("policies", "setup", "--permissions-boundary", "none")):
        refused = run(*flags, "--no-boundary")
        assert refused.exit_code == 1
        assert "is not for a policy with a boundary" in refused.output


def test_a_policy_of_that_name_that_is_not_ours_stays(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    iam = aws.client("iam")
    allow = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    iam.create_policy(PolicyName="coiled-setup-applied", PolicyDocument=document)
    result = administrator("--user", "stranger", "--yes")
    assert result.exit_code == 1
    assert "does not carry our tags" in result.output
    assert "stranger" not in {u["UserName"] for u in iam.list_users()["Users"]}


def test_a_sixth_version_of_a_policy_takes_the_place_of_the_oldest(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    iam = aws.client("iam")
    assert administrator("--user", "versions", "--yes").exit_code == 0
    arn = "arn:aws:iam::123456789012:policy/coiled-setup-applied"
    allow = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    for _ in range(4):
        iam.create_policy_version(PolicyArn=arn, PolicyDocument=document, SetAsDefault=True)
    result = administrator("--user", "versions", "--yes")
    assert "policy coiled-setup-applied: renewed" in result.output
    default = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    held = iam.get_policy_version(PolicyArn=arn, VersionId=default)["PolicyVersion"]["Document"]
    assert held == iam_policies("applied", aws_account_id="123456789012")["setup"]


def test_who_may_not_manage_iam_is_told_who_may(aws: Sandbox, administrator: Callable[..., Result]) -> None:
    result = administrator("--user", "nobody", "--yes", profile="poor")
    assert result.exit_code == 1
    assert "somebody who manages IAM (--profile)" in result.output
    assert result.output.count("Error: ") == 1
    other = administrator("--user", "nobody", "--yes", "--aws-account-id", "210987654321")
    assert "AWS account 210987654321: is not that of the credentials" in other.output


def test_the_calls_of_an_administrator_are_in_no_policy() -> None:
    permitted = {
        action
        for document in iam_policies("team").values()
        for statement in document["Statement"]
        for action in statement["Action"]
    }
    assert not permitted & set(ADMINISTRATION)


@pytest.mark.parametrize("name", ["setup", "ongoing"])
def test_a_policy_is_the_same_in_each_form(name: str) -> None:
    plain = json.loads(of(f"policies {name} --account team"))
    template = json.loads(of(f"policies {name} --account team --format cloudformation"))
    (resource,) = template["Resources"].values()
    assert resource["Type"] == "AWS::IAM::ManagedPolicy"
    assert resource["Properties"]["PolicyDocument"] == plain
    terraform = json.loads(of(f"policies {name} --account team --format terraform"))
    (policy,) = terraform["resource"]["aws_iam_policy"].values()
    # Terraform would take IAM's variables for its own.
    assert re.sub(r"\$\$\{", "", policy["policy"]).count("${") == 0
    assert json.loads(policy["policy"].replace("$${", "${")) == plain


@pytest.fixture
def bounded(aws: Sandbox) -> Iterator[str]:
    """The ARN of a boundary of one's own, which the saved account "applied" names."""
    iam = aws.client("iam")
    document = json.dumps(boundary_of("applied", "123456789012")[1])
    arn: str = iam.create_policy(PolicyName="company-boundary", PolicyDocument=document)["Policy"]["Arn"]
    keys = {"aws_access_key_id": "sandbox", "aws_secret_access_key": aws.info.secret_access_key}
    set_backend_options("applied", **keys, endpoint_url=aws.endpoint, permissions_boundary=arn)
    yield arn
    reset_account("applied")
    iam.delete_policy(PolicyArn=arn)


def role_of(iam: Any, boundary: str) -> Callable[[], str]:
    """Make the machines' role of the account with a boundary; says which one it has."""
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    iam.create_role(
        RoleName="applied",
        AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        Tags=[{"Key": "owner", "Value": "coiled"}, {"Key": "coiled-account", "Value": "applied"}],
        PermissionsBoundary=boundary,
    )
    return lambda: iam.get_role(RoleName="applied")["Role"]["PermissionsBoundary"]["PermissionsBoundaryArn"]


def test_a_boundary_of_the_accounts_own_stays_and_no_other_one_is_made(
    aws: Sandbox, administrator: Callable[..., Result], bounded: str
) -> None:
    iam = aws.client("iam")
    has = role_of(iam, bounded)
    try:
        result = administrator("--user", "own-bound", "--yes", profile=None)
        assert result.exit_code == 0, result.output
        assert has() == bounded
    finally:
        iam.delete_role(RoleName="applied")
    made = {one["PolicyName"]: one for one in iam.list_policies(Scope="Local")["Policies"]}
    assert "coiled-boundary-applied" not in made
    setup = made["coiled-setup-applied"]
    held = iam.get_policy_version(PolicyArn=setup["Arn"], VersionId=setup["DefaultVersionId"])
    printed = json.loads(of("policies setup --account applied --aws-account-id 123456789012"))
    assert held["PolicyVersion"]["Document"] == printed
    guards = {s["Sid"]: s for s in printed["Statement"] if s["Effect"] == "Deny"}
    assert guards["KeepRoleBound"]["Condition"] == {"ArnNotLike": {"iam:PermissionsBoundary": bounded}}
    lines = of("setup iam --account applied --user own-bound --aws-account-id 123456789012").splitlines()
    assert not any("coiled-boundary-applied" in line for line in lines)
    assert any(line.endswith(f"--permissions-boundary {bounded}") for line in lines)
    refused = administrator("--user", "own-bound", "--service", "dynamodb", "--yes", profile=None)
    assert refused.exit_code == 1
    assert bounded in refused.output


def test_another_boundary_is_not_replaced_without_a_word(
    aws: Sandbox, administrator: Callable[..., Result], bounded: str
) -> None:
    iam = aws.client("iam")
    other = iam.create_policy(
        PolicyName="other-boundary",
        PolicyDocument=json.dumps(boundary_of("applied", "123456789012")[1]),
    )["Policy"]["Arn"]
    has = role_of(iam, other)
    try:
        asked = administrator("--user", "rebound", profile=None, answer="n\n")
        assert asked.exit_code == 1
        assert f"which it loses: {other}" in " ".join(asked.output.split())
        assert has() == other
        assert administrator("--user", "rebound", "--yes", profile=None).exit_code == 0
        assert has() == bounded
    finally:
        iam.delete_role(RoleName="applied")
        iam.delete_policy(PolicyArn=other)


def test_an_account_that_wants_no_boundary_is_taken_at_its_word(aws: Sandbox) -> None:
    keys = {"aws_access_key_id": "sandbox", "aws_secret_access_key": aws.info.secret_access_key}
    set_backend_options("applied", **keys, endpoint_url=aws.endpoint, permissions_boundary="none")
    command = ("setup", "iam", "--account", "applied", "--user", "u", "--aws-account-id", "123456789012")
    try:
        policy = run("policies", "setup", "--account", "applied")
        assert "as good as an administrator" in policy.stderr
        assert "PermissionsBoundary" not in policy.stdout
        assert "boundary-applied" not in of(" ".join(command))
        assert "boundary-applied" in of(" ".join((*command, "--boundary")))
    finally:
        reset_account("applied")


def test_where_no_block_can_be_read_it_is_said_whose_boundary_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(slug: str) -> None:
        raise AccountError(f"account {slug!r}", "the Prefect API cannot be asked.")

    monkeypatch.setattr(loading, "saved_block", away)
    printed = run("policies", "setup", "--account", "applied", "--aws-account-id", "123456789012")
    assert printed.exit_code == 0
    assert "the Prefect API cannot be asked." in printed.stderr
    assert "names no permissions boundary of its own" in printed.stderr
    assert "policy/coiled-boundary-applied" in printed.stdout
    # Who says which one is asked nothing.
    arn = "arn:aws:iam::123456789012:policy/mine"
    named = run("policies", "setup", "--account", "applied", "--permissions-boundary", arn)
    assert (named.exit_code, named.stderr) == (0, "")
