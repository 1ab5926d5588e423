"""No account's policies reach what is another account's: slugs x services x policies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from prefect_coiled.plan import tags
from prefect_coiled.plan.boundary import boundary_arn
from prefect_coiled.plan.containers import repository_name
from prefect_coiled.plan.machine_policies import boundary_of, bucket_name
from prefect_coiled.plan.policies import POLICIES, PolicyName, iam_policies
from prefect_coiled.sandbox.iam.decide import Request, decide

NUMBER, OTHER_NUMBER, REGION = "123456789012", "210987654321", "us-east-1"
LONG = "customer-analytics-platform-of-the-whole-company-in-production-"
SLUGS = (
    "my-team",
    "my-team-2",
    "my-teamx",
    "x-my-team",
    "a-us-east-1-my-team",
    f"{LONG}a",
    f"{LONG}b",
)


def resources(slug: str, number: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What an account has: the service, the ARN, and what AWS knows of it."""
    labels = {f"aws:resourcetag/{k}": v for k, v in tags.account_tags(slug).items()}
    for region in (REGION, "eu-west-1"):
        bucket = f"arn:aws:s3:::{bucket_name(slug, number, region)}"
        for arn in (bucket, f"{bucket}/wheels/x", f"{bucket}/images/x/pylock.toml"):
            yield "s3", arn, {"aws:resourceaccount": number}
        path = f"arn:aws:ssm:{region}:{number}:parameter/prefect-coiled/{slug}"
        for arn in (path, f"{path}/set-up", f"{path}/c/intent", f"{path}/c/0011/node/worker"):
            yield "ssm", arn, labels
        group = f"arn:aws:logs:{region}:{number}:log-group:{slug}"
        for arn in (group, f"{group}:log-stream:", f"{group}:log-stream:i-1"):
            yield "logs", arn, labels
        yield "ecr", f"arn:aws:ecr:{region}:{number}:repository/{repository_name(slug)}", labels
        for kind in ("instance", "vpc", "subnet", "security-group", "natgateway", "launch-template"):
            yield "ec2", f"arn:aws:ec2:{region}:{number}:{kind}/x-1", labels
        yield "ec2", f"arn:aws:ec2:{region}::image/ami-1", {**labels, "ec2:owner": number}
    for kind in ("role", "instance-profile"):
        context = {
            **labels,
            "iam:permissionsboundary": boundary_arn(slug, number),
            "iam:passedtoservice": "ec2.amazonaws.com",
            "iam:policyarn": "arn:aws:iam::aws:policy/X",
        }
        yield "iam", f"arn:aws:iam::{number}:{kind}/{slug}", context


def crossing(
    slug: str, name: PolicyName, number: str, other: str, theirs: str, boundary: str = ""
) -> list[tuple[str, str]]:
    """What the policy of an account permits on what another one has, in its own AWS account or another."""
    document = iam_policies(slug, aws_account_id=number, region="*", permissions_boundary=boundary)[name]
    # Some calls have no resource of their own.
    bound = [s for s in document["Statement"] if s["Resource"] != ["*"]]
    actions = sorted({a for s in bound for a in s["Action"]})
    who = {"aws:principalaccount": NUMBER, "aws:username": "somebody"}
    # Tags in the request are the caller's own to choose; what EC2 makes has no name that could be another's.
    request = {f"aws:requesttag/{k}": v for k, v in tags.account_tags(slug).items()}
    return [
        (action, arn)
        for service, arn, context in resources(other, theirs)
        for action in actions
        if action.partition(":")[0] == service
        if decide(
            [{"Statement": bound}],
            Request(action, arn, {**who, **context, **(request if service != "ec2" else {})}),
        ).allowed
    ]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("number", [NUMBER, "*"])
def test_no_policy_reaches_what_another_account_has(name: PolicyName, number: str) -> None:
    crossed = {
        (slug, other): found
        for slug, other in itertools.permutations(SLUGS, 2)
        if (found := crossing(slug, name, number, other, NUMBER))
    }
    assert crossed == {}


def test_with_a_boundary_no_policy_reaches_further() -> None:
    for slug, other in itertools.permutations(SLUGS, 2):
        # Also where what another account has is within the same boundary.
        for boundary in (boundary_arn(slug, NUMBER), boundary_arn(other, NUMBER)):
            assert crossing(slug, "setup", NUMBER, other, NUMBER, boundary) == []


@pytest.mark.parametrize("services", [(), ("ssm", "ecr", "dynamodb")])
def test_whatever_a_bounded_role_is_given_it_reaches_nothing_of_another_account(
    services: tuple[str, ...],
) -> None:
    everything = [{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}]
    for slug, other in itertools.permutations(SLUGS, 2):
        _, boundary = boundary_of(slug, NUMBER, services=services)
        for service, arn, context in resources(other, NUMBER):
            for action in TAKEN[service]:
                asked = Request(action, arn, {**context, "aws:principalaccount": NUMBER})
                assert not decide(everything, asked, boundary).allowed, (slug, action, arn)
        theirs = Request("s3:GetObject", "arn:aws:s3:::data-of-the-team/x", {"aws:resourceaccount": NUMBER})
        assert decide(everything, theirs, boundary).allowed


# What would be of use to somebody, by service.
TAKEN = {
    "s3": ("s3:GetObject", "s3:PutObject", "s3:DeleteBucket", "s3:PutBucketPolicy"),
    "ssm": ("ssm:GetParameter", "ssm:GetParametersByPath", "ssm:PutParameter", "ssm:DeleteParameters"),
    "logs": ("logs:PutLogEvents", "logs:GetLogEvents", "logs:DeleteLogGroup"),
    "ecr": ("ecr:BatchGetImage", "ecr:PutImage", "ecr:DeleteRepository"),
    "ec2": ("ec2:TerminateInstances", "ec2:RunInstances", "ec2:CreateTags"),
    "iam": ("iam:PutRolePolicy", "iam:PassRole", "iam:AttachRolePolicy"),
}


def test_key_pairs_which_are_nobodys_are_used_and_not_changed() -> None:
    for slug, name in itertools.product(SLUGS, POLICIES):
        document = iam_policies(slug, aws_account_id=NUMBER)[name]
        actions = {a for s in document["Statement"] if s["Resource"] != ["*"] for a in s["Action"]}
        arn = f"arn:aws:ec2:{REGION}:{NUMBER}:key-pair/theirs"
        may = {a for a in actions if a.startswith("ec2:") and decide([document], Request(a, arn)).allowed}
        assert may == ({"ec2:RunInstances"} if name == "ongoing" else set())


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("number", [NUMBER, "*"])
def test_no_policy_reaches_a_bucket_of_another_aws_account(name: PolicyName, number: str) -> None:
    for slug in SLUGS:
        found = crossing(slug, name, number, slug, OTHER_NUMBER)
        assert [c for c in found if c[0].startswith("s3:")] == []


@pytest.mark.parametrize("name", POLICIES)
def test_each_policy_reaches_what_its_own_account_has(name: PolicyName) -> None:
    for slug in SLUGS:
        services = {action.partition(":")[0] for action, _ in crossing(slug, name, "*", slug, NUMBER)}
        assert services >= {"s3", "ssm", "logs"} if name == "instance" else services >= {"s3", "ec2"}


@pytest.mark.parametrize("slug", SLUGS)
def test_only_the_path_itself_and_what_is_below_it_is_listed(slug: str) -> None:
    document = iam_policies(slug, aws_account_id=NUMBER)["ongoing"]
    root = f"arn:aws:ssm:{REGION}:{NUMBER}:parameter/prefect-coiled/{slug}"

    def may(arn: str) -> bool:
        return decide([document], Request("ssm:GetParametersByPath", arn)).allowed

    reached = [arn for arn in (root, f"{root}/c", f"{root}-2", f"{root}x/c") if may(arn)]
    assert reached == [root, f"{root}/c"]


def test_names_of_buckets_stay_apart_and_are_names_that_s3_takes() -> None:
    found = {bucket_name(slug, NUMBER, region) for slug in SLUGS for region in (REGION, "ap-southeast-1")}
    assert len(found) == 2 * len(SLUGS)
    assert all(3 <= len(name) <= 63 and name.islower() and "--" not in name for name in found)
