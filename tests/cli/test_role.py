"""`role`: what the account's machines may do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from prefect_coiled import load_account
from prefect_coiled.sandbox import Sandbox

from .conftest import run


@pytest.fixture
def there(aws: Sandbox, keys: dict[str, str]) -> str:
    """The account "guided", set up."""
    secret = ("--secret-access-key", keys["aws_secret_access_key"])
    options = ("--access-key-id", keys["aws_access_key_id"], *secret, "--endpoint-url", aws.endpoint)
    result = run("setup", "aws", "--account", "guided", "--yes", *options)
    assert result.exit_code == 0, result.output
    return "guided"


@pytest.mark.parametrize("act", ["list", "attach-policy", "detach-policy"])
def test_an_account_that_is_not_set_up_is_told_what_to_do(
    act: str, aws: Sandbox, save: Callable[..., Any]
) -> None:
    administrator = {"aws_access_key_id": "sandbox", "aws_secret_access_key": aws.info.secret_access_key}
    save(**administrator)
    arn = [] if act == "list" else ["arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"]
    told = run("role", act, *arn, "--account", "saved")
    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr == (
        "Error: finding role (saved): the account is not set up yet. "
        "Run `prefect-coiled setup aws --account saved` first.\n"
    )


def test_a_policy_is_attached_to_the_role_once(there: str) -> None:
    reads = "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"
    where = ("--account", there)
    assert "Attached to role guided" in run("role", "attach-policy", reads, *where).output
    assert "Was attached" in run("role", "attach-policy", reads, *where).output
    assert reads in run("role", "list", *where).output
    assert load_account(there).attach_policy(reads) is False
    assert "Detached" in run("role", "detach-policy", reads, *where).output
    assert reads not in run("role", "list", *where).output


def test_policies_of_ones_own_are_attached_by_their_path(there: str, aws: Sandbox) -> None:
    anything = {"Effect": "Allow", "Action": "dynamodb:GetItem", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [anything]})
    made = aws.client("iam").create_policy(PolicyName="table", Path="/coiled/", PolicyDocument=document)
    arn = made["Policy"]["Arn"]
    assert "Attached to role guided" in run("role", "attach-policy", arn, "--account", there).output
    assert "Detached" in run("role", "detach-policy", arn, "--account", there).output


def test_what_an_administrator_attached_can_be_taken_away(there: str, aws: Sandbox) -> None:
    arn = "arn:aws:iam::aws:policy/AdministratorAccess"
    aws.client("iam").attach_role_policy(RoleName="guided", PolicyArn=arn)
    assert "Detached" in run("role", "detach-policy", arn, "--account", there).output


@pytest.mark.parametrize(
    ("arn", "text"),
    [
        ("AmazonS3ReadOnlyAccess", "must look like arn:aws:iam::aws:policy/"),
        ("arn:aws:iam::aws:policy/AdministratorAccess", "would open the whole AWS account"),
        ("arn:aws:iam::aws:policy/NoSuchReadOnlyAccess", "AWS has no policy of that ARN"),
        ("arn:aws:iam::aws:policy/AmazonDynamoDBFullAccess", "those of your own under the path /coiled/"),
        ("arn:aws:iam::123456789012:policy/mine", "those of your own under the path /coiled/"),
    ],
)
def test_a_policy_that_is_none_is_refused(there: str, arn: str, text: str) -> None:
    result = run("role", "attach-policy", arn, "--account", there)
    assert result.exit_code == 1
    assert text in result.output


def test_an_account_that_is_not_there_is_answered_with_those_that_are(there: str) -> None:
    result = run("ls", "--account", "guidde")
    assert result.exit_code == 1
    assert re.search(r"no block of that name \(there is: .*\bguided\b", result.output)
