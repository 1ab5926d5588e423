"""The shipped IAM policies: complete, as narrow as AWS allows, and clean in the eyes of two linters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from prefect_coiled.errors import OptionsError
from prefect_coiled.options import NetworkIds
from prefect_coiled.plan.actions import ACTIONS, PERMISSIONS_ALONE
from prefect_coiled.plan.boundary import BOUND, NO_BOUNDARY, boundary_arn, caveat
from prefect_coiled.plan.machine_policies import boundary_of, bucket_name, trust_policy
from prefect_coiled.plan.policies import (
    LONGEST,
    PARTITIONS,
    POLICIES,
    iam_policies,
    permitting_statements,
    size,
)
from prefect_coiled.plan.statements import WHAT_FOR, grants
from prefect_coiled.sandbox.iam.decide import Request, decide
from prefect_coiled.sandbox.iam.table import action_row, known_actions

NUMBER = "123456789012"
# STS answers this call to everybody.
FREE = {"sts:GetCallerIdentity", "sts:GetSessionToken"}
# Both linters see a credential in the registry's token. It opens what the next statement of the policy names:
# pulling from the account's own repository, https://docs.aws.amazon.com/AmazonECR/latest/userguide/registry_auth.html
WAIVED: dict[str, set[str]] = {"setup": set(), "ongoing": set(), "instance": {"ecr:GetAuthorizationToken"}}
# It reads numbers. That AWS knows narrower resources is not in all copies of its reference.
NO_SECRET = {"servicequotas:GetServiceQuota"}
CONDITION_KEYS = {
    "made": "aws:requesttag",
    "tagged": "aws:requesttag",
    "ours": "aws:resourcetag",
    "amazon": "ec2:owner",
    "ec2-only": "iam:passedtoservice",
    "ec2-if-said": "iam:passedtoservice",
    "policy": "iam:policyarn",
    "spot": "iam:awsservicename",
    "owned": "aws:resourceaccount",
    "bounded": "iam:permissionsboundary",
}


def statements(name: str, **keywords: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = iam_policies("my-team", **keywords)[name]["Statement"]
    return found


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_fits_into_what_aws_allows(name: str) -> None:
    for partition in PARTITIONS:
        for boundary in ("", f"arn:{partition}:iam::{NUMBER}:policy/{'b' * 80}", NO_BOUNDARY):
            longest = iam_policies(
                "a" * 64,
                aws_account_id=NUMBER,
                region="ap-southeast-1",
                partition=partition,
                permissions_boundary=boundary,
            )
            assert size(longest[name]) <= LONGEST


def test_a_boundary_fits_too_and_lets_machines_do_what_they_must() -> None:
    arn, document = boundary_of("a" * 64, NUMBER, "aws-us-gov", ["dynamodb"])
    assert arn == boundary_arn("a" * 64, NUMBER, "aws-us-gov")
    assert size(document) <= LONGEST
    role = iam_policies("a" * 64, aws_account_id=NUMBER, partition="aws-us-gov")["instance"]
    assert document["Statement"][:-1] == role["Statement"]
    assert document["Statement"][-1]["Action"] == ["dynamodb:*", "s3:*"]
    assert boundary_of("a" * 64, NUMBER)[1]["Statement"][-1]["Action"] == ["s3:*"]


@pytest.mark.parametrize("service", ["iam", "sts", "organizations", "*", "s3:Get*", "", "s3\n"])
def test_a_boundary_by_which_everything_could_be_had_is_none(service: str) -> None:
    with pytest.raises(OptionsError, match="service"):
        boundary_of("team", NUMBER, services=[service])


@pytest.mark.parametrize(
    "arn", ["arn:aws:iam::awsome:policy/x", "*", "arn:aws:iam::*:policy/x", "arn:aws:iam::aws:role/x", "x\n"]
)
def test_what_is_no_policy_is_no_boundary(arn: str) -> None:
    with pytest.raises(OptionsError, match="permissions_boundary"):
        iam_policies("team", permissions_boundary=arn)


def test_a_boundary_may_be_a_policy_of_awss_own_and_what_it_does_not_hold_is_said() -> None:
    arn = "arn:aws:iam::aws:policy/PowerUserAccess"
    role = f"arn:aws:iam::{NUMBER}:role/team"
    setup = iam_policies("team", aws_account_id=NUMBER, permissions_boundary=arn)["setup"]

    def may(action: str, resource: str, bound: str = "") -> bool:
        context = {"iam:permissionsboundary": bound, "aws:requesttag/owner": "coiled"}
        return bool(decide([setup], Request(action, resource, context)).allowed)

    assert may("iam:GetPolicy", arn)
    assert may("iam:PutRolePolicy", role, arn)
    assert not may("iam:PutRolePolicy", role, boundary_arn("team", NUMBER))
    assert not may("iam:CreatePolicy", boundary_arn("team", NUMBER))
    assert "AdministratorAccess" in caveat(arn)
    assert "as good as an administrator" in caveat(NO_BOUNDARY)
    assert caveat(boundary_arn("team", NUMBER)) == caveat("") == ""


def test_the_set_up_policy_wants_the_boundary_unless_one_opts_out() -> None:
    everything = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    role, own = f"arn:aws:iam::{NUMBER}:role/team", boundary_arn("team", NUMBER)
    changes = ("CreatePolicyVersion", "DeletePolicy", "DeletePolicyVersion")

    def may(action: str, resource: str, bound: str, **keywords: Any) -> bool:
        for number in (NUMBER, "*"):
            policy = iam_policies("team", aws_account_id=number, **keywords)["setup"]
            context = {"iam:permissionsboundary": bound} if bound else {}
            if decide([everything, policy], Request(action, resource, context)).allowed:
                return True
        return False

    for action in BOUND:
        assert not may(action, role, "")
        assert not may(action, role, boundary_arn("team-2", NUMBER))
        assert may(action, role, own)
        assert may(action, role, "", permissions_boundary=NO_BOUNDARY)
    for action in (*changes, "SetDefaultPolicyVersion"):
        assert not may(f"iam:{action}", own, "")
        assert may(f"iam:{action}", boundary_arn("team-2", NUMBER), "")
    assert not may("iam:DeleteRolePermissionsBoundary", role, own)
    # It is made by whoever comes first; none but it, and none that somebody else has named.
    setup = iam_policies("team", aws_account_id=NUMBER)["setup"]
    for resource, allowed in ((own, True), (boundary_arn("team-2", NUMBER), False)):
        assert decide([setup], Request("iam:CreatePolicy", resource, {})).allowed is allowed
    for limits in (boundary_arn("team-2", NUMBER), f"arn:aws:iam::{NUMBER}:policy/limits"):
        setup = iam_policies("team", aws_account_id=NUMBER, permissions_boundary=limits)["setup"]
        for resource in (own, limits):
            assert not decide([setup], Request("iam:CreatePolicy", resource, {})).allowed
    named = iam_policies("team", permissions_boundary=own)["setup"]
    assert decide([named], Request("iam:CreatePolicy", own, {})).allowed
    # Another one, if it is named.
    other = f"arn:aws:iam::{NUMBER}:policy/limits"
    assert may("iam:PutRolePolicy", role, other, permissions_boundary=other)
    assert not may("iam:PutRolePolicy", role, own, permissions_boundary=other)
    assert not may("iam:CreatePolicyVersion", other, "", permissions_boundary=other)


@pytest.mark.parametrize("call", [call for call in BOUND if call in ACTIONS])
@pytest.mark.parametrize("number", [NUMBER, "*"])
def test_what_an_error_offers_about_roles_wants_the_boundary(call: str, number: str) -> None:
    found = permitting_statements(call, "team", number)
    assert found is not None

    def may(**bound: str) -> bool:
        context = {
            "iam:policyarn": "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess",
            "aws:requesttag/owner": "coiled",
            "aws:requesttag/coiled-account": "team",
            **{f"iam:{key}": value for key, value in bound.items()},
        }
        asked = Request(call, f"arn:aws:iam::{NUMBER}:role/team", context)
        return decide([{"Statement": list(found[1])}], asked).allowed

    assert not may()
    assert not may(permissionsboundary=boundary_arn("other", NUMBER))
    assert may(permissionsboundary=boundary_arn("team", NUMBER))


def test_every_call_has_its_permission_and_every_permission_its_call() -> None:
    assert {call for call, action in ACTIONS.items() if not action.grants} == FREE
    granted = {g.action for g in grants()}
    tagged = {"ec2:CreateTags"}
    assert granted | tagged >= PERMISSIONS_ALONE
    # S3 names some permissions otherwise than its calls.
    assert {a for a in granted - set(ACTIONS) if not a.startswith("s3:")} <= PERMISSIONS_ALONE


def test_every_action_is_one_that_aws_knows() -> None:
    assert {g.action.lower() for g in grants()} <= known_actions()


@pytest.mark.parametrize("grant", grants(), ids=lambda g: f"{g.action} {g.resource.rsplit(':', 1)[-1]}")
def test_aws_supports_the_resource_and_the_condition_of_each_permission(grant: Any) -> None:
    row = action_row(grant.action)
    if grant.resource == "*":
        narrower = grant.action not in NO_SECRET and row.kinds
        assert not narrower, "AWS knows narrower resources for this action"
        return
    kind = grant.resource.format(partition="", region="", number="", account="", bucket="b").split(":")[-1]
    kind = kind.split("/")[0]
    kinds = {kind} & set(row.kinds) or set(row.kinds)
    assert row.kinds
    if grant.condition:
        assert any(row.knows(CONDITION_KEYS[grant.condition], k) for k in (*kinds, ""))


@pytest.mark.parametrize(
    "grant",
    [g for g in grants() if g.action.startswith("ec2:") and not g.condition and g.resource != "*"],
    ids=lambda g: f"{g.action} {g.resource.rsplit(':', 1)[-1]}",
)
def test_an_ec2_permission_without_a_condition_is_argued_for(grant: Any) -> None:
    # A key pair is the user's own, and carries no tags of ours.
    assert (grant.action, grant.resource.rsplit(":", 1)[-1]) == ("ec2:RunInstances", "key-pair/*")


def test_a_name_that_is_no_account_or_number_is_refused() -> None:
    with pytest.raises(OptionsError, match="12 digits"):
        iam_policies("team", aws_account_id="12345")
    with pytest.raises(OptionsError, match="lower-case"):
        iam_policies("team*")


def test_the_slug_of_a_neighbour_is_not_in_reach() -> None:
    text = json.dumps(iam_policies("team")["ongoing"]) + json.dumps(iam_policies("team")["setup"])
    assert "team-2" not in text
    assert '"aws:ResourceTag/coiled-account": "team"' in text


def test_a_network_of_ones_own_is_allowed_by_its_ids_alone() -> None:
    own = NetworkIds(network_id="vpc-0123456789abcdef0", scheduler_subnet_id="subnet-0123456789abcdef0")
    added = [s for s in statements("ongoing", network=own) if s["Sid"].startswith("OwnNetwork")]
    places = sorted(r.rsplit(":", 1)[-1] for s in added for r in s["Resource"])
    assert places == ["subnet/subnet-0123456789abcdef0", "vpc/vpc-0123456789abcdef0"]
    # What another AWS account shares has that one's number.
    assert {r.split(":")[4] for s in added for r in s["Resource"]} == {"*"}
    launches = next(s for s in statements("instance") if s["Sid"] == "LaunchAsItSays")
    assert [r for r in launches["Resource"] if "subnet" in r] == ["arn:aws:ec2:*:*:subnet/*"]


def lengthened(slug: str, partition: str, region: str) -> Iterator[dict[str, dict[str, Any]]]:
    """The policies with every choice of what lengthens them."""
    own = NetworkIds(
        network_id="vpc-0123456789abcdef0",
        scheduler_subnet_id="subnet-0123456789abcdef0",
        worker_subnet_id="subnet-0123456789abcdef1",
        firewall_id="sg-0123456789abcdef0",
    )
    groups = own.model_copy(update={"scheduler_firewall_id": "sg-0123456789abcdef1"})
    keys = f"arn:{partition}:kms:{region}:{NUMBER}:key/mrk-0123456789abcdef0123456789abcdef"
    role = f"arn:{partition}:iam::{NUMBER}:role/{'p' * 510}/{'r' * 64}"
    bound = boundary_arn(slug, NUMBER, partition)
    bounds = ("", bound, NO_BOUNDARY)
    for network, key, arn, boundary in product((None, own, groups), ("", keys), ("", role), bounds):
        yield iam_policies(
            slug,
            aws_account_id=NUMBER,
            region=region,
            partition=partition,
            network=network,
            kms_key=key,
            role_arn=arn,
            permissions_boundary=boundary,
        )


@pytest.mark.parametrize(
    ("partition", "region"),
    [("aws", "ap-southeast-1"), ("aws-cn", "cn-northwest-1"), ("aws-us-gov", "us-gov-west-1")],
)
def test_with_the_longest_slug_and_all_that_lengthens_them_they_fit_and_lack_nothing(
    partition: str, region: str
) -> None:
    for short, long in zip(
        lengthened("a", partition, region), lengthened("a" * 64, partition, region), strict=True
    ):
        assert max(map(size, long.values())) <= LONGEST
        assert {"setup", "ongoing", "instance"} <= set(long) <= {"setup", "ongoing", "own", "instance"}
        sids = [s["Sid"] for name in ("ongoing", "own") if name in long for s in long[name]["Statement"]]
        assert sids == [
            s["Sid"] for name in ("ongoing", "own") if name in short for s in short[name]["Statement"]
        ]
        denied = [s["Sid"] for s in long["ongoing"]["Statement"] if s["Effect"] == "Deny"]
        assert denied == ["NoOpenMetadata", "NoPlainDisks"]


def test_the_statement_for_a_call_is_the_policys_own() -> None:
    found = permitting_statements("ec2:DeleteVpc", "my-team")
    assert found is not None
    name, (statement,) = found
    assert name == "setup"
    assert statement["Action"] == ["ec2:DeleteVpc"]
    assert statement["Condition"]["StringEquals"]["aws:ResourceTag/coiled-account"] == "my-team"
    assert permitting_statements("ec2:DeleteVolume", "my-team") is None


@pytest.mark.parametrize("call", [call for call, row in ACTIONS.items() if row.grants])
def test_the_statements_for_a_call_permit_all_that_it_takes_and_nothing_beside(call: str) -> None:
    found = permitting_statements(call, "my-team")
    assert found is not None
    actions = {action for statement in found[1] for action in statement["Action"]}
    wanted = {grant.action for grant in ACTIONS[call].grants}
    made = any(grant.condition == "made" for grant in ACTIONS[call].grants)
    assert actions == wanted | ({"ec2:CreateTags"} if made else set())


def covered_elsewhere(finding: Any, policy: dict[str, Any]) -> bool:
    """Whether what a statement lacks is in another one of the policy.

    The linter looks at each statement alone. An action on several kinds of resources has them in several
    statements, because each kind has its own condition.
    """
    return finding.issue == "RESOURCE_MISMATCH" and all(
        any(
            lacking["action"] in s["Action"]
            and any(fits(r, lacking["required_format"]) for r in s["Resource"])
            for s in policy["Statement"]
        )
        for lacking in finding.detail
    )


def fits(resource: str, wanted: str) -> bool:
    kind = resource.split(":")[-1]
    return resource.split(":")[2] == wanted.split(":")[2] and kind in (wanted.split(":")[-1], "*/*")


def kind_of(arn: str) -> str:
    return arn.rpartition(":")[2].partition("/")[0]


def test_each_action_of_iam_knows_one_kind_of_resource() -> None:
    found: dict[str, set[str]] = {}
    for grant in grants():
        if grant.action.startswith("iam:"):
            found.setdefault(grant.action, set()).add(kind_of(grant.resource))
    assert {action: kinds for action, kinds in found.items() if len(kinds) > 1} == {}
    for action, (kind,) in found.items():
        if kind in ("role", "policy", "instance-profile"):
            assert set(action_row(action).kinds) & {"role", "policy", "instance-profile", "user"} == {kind}


def test_a_statement_about_several_services_permits_nothing_new() -> None:
    places = {
        "account": "my-team",
        "number": NUMBER,
        "region": "*",
        "partition": "aws",
        "bucket": bucket_name("my-team", NUMBER, "*"),
    }
    wanted = {(g.action, g.resource.format(**places)) for g in grants()}
    # Of IAM each action knows one kind: of another it permits nothing.
    kinds = {g.action: kind_of(g.resource) for g in grants() if g.action.startswith("iam:")}
    seen = 0
    for name in ("setup", "ongoing"):
        for s in statements(name, aws_account_id=NUMBER):
            services = {a.partition(":")[0] for a in s["Action"]}
            pairs = {(a, r) for a in s["Action"] for r in s["Resource"]}
            # What must be ours already is one statement, whatever is done to it.
            ours = "aws:ResourceTag/coiled-account" in s.get("Condition", {}).get("StringEquals", {})
            # What EC2 makes is one statement too: each call asks about the kinds that it makes.
            if "aws:RequestTag/coiled-account" in s.get("Condition", {}).get("StringEquals", {}):
                pairs = {(a, r) for a, r in pairs if not a.startswith("ec2:")}
            if len(services) > 1 and s["Resource"] != ["*"] and not ours:
                seen += 1
                assert {
                    (a, r)
                    for a, r in pairs
                    if a.partition(":")[0] == r.split(":")[2] and kinds.get(a, kind_of(r)) == kind_of(r)
                } <= wanted
    assert seen > 1


def test_a_machine_may_pull_the_accounts_own_images_and_no_others() -> None:
    allowed = {a: s["Resource"] for s in statements("instance", aws_account_id=NUMBER) for a in s["Action"]}
    own = [f"arn:aws:ecr:*:{NUMBER}:repository/coiled-my-team"]
    assert {a: r for a, r in allowed.items() if a.startswith("ecr:")} == {
        "ecr:GetAuthorizationToken": ["*"],  # AWS knows no narrower resource
        "ecr:BatchGetImage": own,
        "ecr:GetDownloadUrlForLayer": own,
    }


@pytest.mark.parametrize("name", POLICIES)
def test_parliament_finds_nothing_from_medium_on(name: str) -> None:
    import parliament

    policy = iam_policies("my-team", aws_account_id=NUMBER)[name]
    analyzed = parliament.analyze_policy_string(json.dumps(policy))
    found = [parliament.enhance_finding(f) for f in analyzed.findings]
    grave = [f for f in found if f.severity in ("MEDIUM", "HIGH", "CRITICAL")]
    # Whoever sets the policy of the account's own bucket could write into it; the ongoing policy says that he
    # may, so that nothing is won.
    own = [f for f in grave if f.issue == "RESOURCE_POLICY_PRIVILEGE_ESCALATION" and name == "setup"]
    assert all(":s3:::coiled-" in str(f.detail) for f in own)
    assert [f for f in grave if f not in own and not covered_elsewhere(f, policy)] == []


@pytest.mark.parametrize("name", POLICIES)
def test_cloudsplaining_finds_nothing(name: str) -> None:
    from cloudsplaining.scan.policy_document import PolicyDocument

    document = PolicyDocument(iam_policies("my-team", aws_account_id=NUMBER)[name])
    reads = {g.action for g in grants() if g.resource == "*"}
    assert set(document.all_allowed_unrestricted_actions) <= reads
    assert document.allows_privilege_escalation == []
    assert document.allows_data_exfiltration_actions == []
    assert document.permissions_management_without_constraints == []
    assert document.write_actions_without_constraints == []
    assert document.tagging_actions_without_constraints == []
    assert set(document.credentials_exposure) <= WAIVED[name]
    assert document.service_wildcard == []


@pytest.mark.parametrize(
    ("partition", "principal"),
    [("aws", "ec2.amazonaws.com"), ("aws-us-gov", "ec2.amazonaws.com"), ("aws-cn", "ec2.amazonaws.com.cn")],
)
def test_ec2_is_called_as_the_partition_calls_it(partition: str, principal: str) -> None:
    (trusted,) = json.loads(trust_policy(partition))["Statement"]
    assert trusted["Principal"] == {"Service": principal}
    made = iam_policies("my-team", aws_account_id=NUMBER, partition=partition)
    passed = [
        next(iter(s["Condition"].values()))["iam:PassedToService"]
        for name in ("setup", "ongoing")
        for s in made[name]["Statement"]
        if s["Action"] == ["iam:PassRole"]
    ]
    assert passed
    assert set(passed) == {principal}
    # What is denied is denied in each.
    arns = {
        (s["Effect"], r.split(":")[1])
        for d in made.values()
        for s in d["Statement"]
        for r in s["Resource"]
        if ":" in r
    }
    assert arns - {("Deny", "*"), ("Deny", partition)} == {("Allow", partition)}


def test_a_partition_that_there_is_not_is_refused() -> None:
    with pytest.raises(OptionsError, match="aws-us-gov"):
        iam_policies("my-team", partition="aws-eu")


def test_the_key_of_ones_own_is_allowed_for_disks_alone() -> None:
    key = f"arn:aws:kms:us-east-1:{NUMBER}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    added = [s for s in statements("ongoing", kms_key=key) if s["Sid"].startswith("OwnKey")]
    assert {r for s in added for r in s["Resource"]} == {key}
    assert "kms:CreateGrant" in {a for s in added for a in s["Action"]}
    assert all(s["Condition"] for s in added)
    with pytest.raises(OptionsError, match="kms_key"):
        iam_policies("my-team", kms_key="alias/mine")


def test_a_user_with_a_path_may_ask_what_he_may() -> None:
    asked = [s for s in statements("ongoing") if "iam:SimulatePrincipalPolicy" in s["Action"]]
    resources = {r for s in asked for r in s["Resource"] if ":user/" in r}
    assert resources == {"arn:aws:iam::*:user/${aws:username}", "arn:aws:iam::*:user/*/${aws:username}"}


@pytest.mark.parametrize("name", ["setup", "ongoing"])
def test_every_statement_says_what_it_is_for_and_the_page_explains_it(name: str) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/permissions.md").read_text()
    names = [s["Sid"] for s in statements(name, permissions_boundary=boundary_arn("my-team", NUMBER))]
    names += [s["Sid"] for s in statements(name) if s["Sid"] not in names]
    names.sort(key=lambda n: list(WHAT_FOR).index(n.rstrip("0123456789")))
    assert len(set(names)) == len(names)
    for sid in names:
        kind = sid.rstrip("0123456789")
        assert f"| `{kind}` | {WHAT_FOR[kind]} |" in page
    assert [n.rstrip("0123456789") for n in names] == sorted(
        (n.rstrip("0123456789") for n in names), key=list(WHAT_FOR).index
    )


def test_the_page_explains_the_statements_of_the_machines_role() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/permissions.md").read_text()
    assert all(f"`{s['Sid']}`" in page for s in statements("instance"))
