"""What the sandbox loads when it is asked for, or once for all: nobody can tell."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

POLICY = "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"


@pytest.fixture(autouse=True)
def anew(sandbox: Any) -> None:
    sandbox.reset()


def test_images_of_amazons_are_there_in_each_region_and_after_a_reset(sandbox: Any) -> None:
    def images(region: str) -> list[str]:
        found = sandbox.client("ec2", region).describe_images(Owners=["amazon"])["Images"]
        return sorted(image["ImageId"] for image in found)

    before = {region: images(region) for region in ("us-east-1", "eu-west-1")}
    assert all(len(found) > 100 for found in before.values())
    assert before["us-east-1"] != before["eu-west-1"]
    sandbox.reset()
    assert {region: images(region) for region in before} == before


def test_all_who_ask_at_once_see_all_images(sandbox: Any) -> None:
    clients = [sandbox.client("ec2", "us-west-2") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda ec2: len(ec2.describe_images(Owners=["amazon"])["Images"]), clients))
    assert len(set(found)) == 1
    assert found[0] > 100


def test_a_policy_of_amazons_is_attached_in_this_account_until_the_reset(sandbox: Any) -> None:
    iam = sandbox.client("iam")
    iam.create_role(RoleName="reader", AssumeRolePolicyDocument='{"Version": "2012-10-17", "Statement": []}')
    iam.attach_role_policy(RoleName="reader", PolicyArn=POLICY)
    assert iam.get_policy(PolicyArn=POLICY)["Policy"]["AttachmentCount"] == 1
    sandbox.reset()
    assert sandbox.client("iam").get_policy(PolicyArn=POLICY)["Policy"]["AttachmentCount"] == 0


def test_policies_of_amazons_are_those_of_the_partition(sandbox: Any) -> None:
    for region, partition in (("us-east-1", "aws"), ("cn-north-1", "aws-cn")):
        pages = sandbox.client("iam", region).get_paginator("list_policies").paginate(Scope="AWS")
        arns = {policy["Arn"].split(":")[1] for page in pages for policy in page["Policies"]}
        assert arns == {partition}
