"""Names in AWS: those of the longest slug and the longest cluster's name fit, and stay apart."""

from __future__ import annotations

import pytest

from prefect_coiled.aws import parameters
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cluster.request import Request
from prefect_coiled.plan.cluster import ClusterSpec, cluster_tags, group_name, template_name
from prefect_coiled.plan.containers import repository_name
from prefect_coiled.plan.iam_setup import policy_name
from prefect_coiled.plan.kept import MOST_WAYS, kept_names
from prefect_coiled.plan.machine_policies import bucket_name

SLUG, NAME = "s" * 64, "n" * 63
# The longest of AWS's regions and partitions.
REGION, PARTITION, NUMBER = "ap-southeast-7", "aws-us-gov", "1" * 12


def spec(slug: str = SLUG, name: str = NAME) -> ClusterSpec:
    return Request({}, name=name, n_workers=2).spec(
        Account(slug, sandbox=None), "me", own_cidr=lambda: "192.0.2.1/32"
    )


def templates(of: ClusterSpec) -> list[str]:
    return [template_name(of, "scheduler"), template_name(of, "worker"), *kept_names(of)]


def arn(of: ClusterSpec) -> str:
    """The longest parameter's, by which its length counts."""
    path = parameters.cluster_path(of.account, of.name, of.uid)
    return f"arn:{PARTITION}:ssm:{REGION}:{NUMBER}:parameter{path}scheduler/registry"


# Each with its source, on docs.aws.amazon.com:
# AWSEC2/latest/APIReference/API_CreateLaunchTemplate.html, API_CreateSecurityGroup.html, API_CreateImage.html
# and API_Tag.html; systems-manager/latest/APIReference/API_PutParameter.html;
# IAM/latest/UserGuide/reference_iam-quotas.html;
# AmazonCloudWatchLogs/latest/APIReference/API_CreateLogGroup.html;
# AmazonS3/latest/userguide/bucketnamingrules.html; AmazonECR/latest/APIReference/API_CreateRepository.html.
LONGEST = {
    "launch templates": (128, templates(spec())),
    "security groups": (255, [group_name(spec(), which) for which in ("scheduler", "cluster")]),
    "descriptions of security groups": (255, [f"Dask cluster {NAME}: its machines among themselves"]),
    "values of tags": (256, list(cluster_tags(spec(), "scheduler").values())),
    "parameters": (1011, [arn(spec())]),
    "roles": (64, [SLUG]),
    "instance profiles": (128, [SLUG]),
    "policies": (
        128,
        [policy_name(phase, SLUG) for phase in ("boundary", "ongoing", "setup")],
    ),
    "log groups": (512, [SLUG]),
    "buckets": (63, [bucket_name(SLUG, NUMBER, region) for region in (REGION, "us-gov-west-1")]),
    "repositories": (256, [repository_name(SLUG)]),
    "images": (128, [f"coiled-{SLUG}-{'0' * 16}"]),
}


@pytest.mark.parametrize("kind", LONGEST)
def test_names_of_the_longest_slug_and_cluster_fit(kind: str) -> None:
    most, names = LONGEST[kind]
    assert all(0 < len(name) <= most for name in names), names


def test_templates_of_long_names_are_the_same_each_time_and_no_two_share_one() -> None:
    one = spec()
    assert templates(one) == templates(ClusterSpec.decode(one.encode()))
    # The same slug and name, and those that differ in their last characters alone.
    all_ = [one, spec(), spec(slug=f"{SLUG[:-1]}t"), spec(name=f"{NAME[:-1]}m")]
    names = [name for of in all_ for name in templates(of)]
    assert len(set(names)) == len(names) == len(all_) * (2 + MOST_WAYS)
    assert all(name.startswith("coiled-s") for name in names)


def test_templates_of_other_names_say_whose_they_are() -> None:
    one = spec("team", "c")
    assert template_name(one, "worker") == f"coiled-team-c-worker-{one.uid[:8]}"
    assert kept_names(one, 2) == tuple(f"coiled-team-c-worker-{one.uid[:8]}-{n}" for n in (1, 2))
