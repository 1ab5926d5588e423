"""Whose policies are asked about: those of a user or a role, with their paths."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_coiled.aws.caller import Caller
from prefect_coiled.aws.foresight import foresee, may_use_key
from prefect_coiled.errors import AccessDeniedError, NotFoundError

NUMBER = "123456789012"
SESSION = f"arn:aws:sts::{NUMBER}:assumed-role/AWSReservedSSO_Admin_0123/jane"
ROLE = f"arn:aws:iam::{NUMBER}:role/aws-reserved/sso.amazonaws.com/AWSReservedSSO_Admin_0123"
KEY = f"arn:aws:kms:us-east-1:{NUMBER}:key/1234abcd-12ab-34cd-56ef-1234567890ab"


class Door:
    """A door to an IAM that knows one user or role, and lets the caller ask for roles, or not.

    Args:
        known: Its ARN.
        tells: Whether iam:GetRole is permitted.
        denied: The actions that its policies do not allow.
    """

    account, region, boundary = "team", "us-east-1", ""

    def __init__(self, known: str, *, tells: bool = True, denied: tuple[str, ...] = ()) -> None:
        self.known, self.tells, self.denied = known, tells, denied
        self.asked: list[dict[str, Any]] = []

    def call(self, action: str, what: str, **wanted: Any) -> dict[str, Any]:
        assert action == "iam:GetRole"
        if not self.tells:
            raise AccessDeniedError(what, "no", operation=action, code="AccessDenied")
        assert wanted == {"RoleName": self.known.rpartition("/")[2]}
        return {"Role": {"Arn": self.known}}

    def pages(self, action: str, what: str, key: str, **wanted: Any) -> Any:
        self.asked.append(wanted)
        if wanted["PolicySourceArn"] != self.known:
            raise NotFoundError(what, "cannot be found.", operation=action, code="NoSuchEntity")
        for name in wanted["ActionNames"]:
            decision = "implicitDeny" if name in self.denied else "allowed"
            yield {
                "EvalActionName": name,
                "EvalResourceName": wanted["ResourceArns"][0],
                "EvalDecision": decision,
            }


def foreseen(door: Any, arn: str, role_arn: str = "") -> set[str]:
    caller = Caller(aws_account_id=NUMBER, arn=arn)
    return {one.action for one in foresee(door, caller, role_arn)}


def test_a_session_is_asked_about_by_its_role_with_its_path() -> None:
    assert foreseen(Door(ROLE, denied=("ec2:CreateVpc",)), SESSION) == {"ec2:CreateVpc"}


def test_the_role_that_an_account_names_is_taken_as_it_is() -> None:
    assert foreseen(Door(ROLE, tells=False), SESSION, ROLE) == set()


def test_a_role_without_a_path_needs_no_look_up() -> None:
    plain = f"arn:aws:iam::{NUMBER}:role/AWSReservedSSO_Admin_0123"
    assert foreseen(Door(plain, tells=False), SESSION) == set()


def test_a_role_whose_path_nobody_tells_is_said_to_be_unknown() -> None:
    with pytest.raises(AccessDeniedError, match=r"lacks the path .*role_arn"):
        foreseen(Door(ROLE, tells=False), SESSION)


def test_a_user_with_a_path_is_asked_about_and_asks_about_himself() -> None:
    user = f"arn:aws:iam::{NUMBER}:user/research/jane"
    door = Door(user)
    assert foreseen(door, user) == set()
    own = [a["ResourceArns"][0] for a in door.asked if a["ActionNames"] == ["iam:SimulatePrincipalPolicy"]]
    assert set(own) == {user}


def test_in_china_resources_are_those_of_china() -> None:
    user = f"arn:aws-cn:iam::{NUMBER}:user/jane"
    door = Door(user)
    foreseen(door, user)
    places = {a["ResourceArns"][0].split(":")[1] for a in door.asked if ":" in a["ResourceArns"][0]}
    assert places == {"aws-cn"}


@pytest.mark.parametrize(
    ("door", "may"),
    [
        (Door(ROLE), True),
        (Door(ROLE, denied=("kms:CreateGrant",)), False),
        (Door(ROLE, tells=False), None),
    ],
)
def test_whether_a_key_may_be_used_is_known_or_said_to_be_unknown(door: Any, may: bool | None) -> None:
    assert may_use_key(door, Caller(aws_account_id=NUMBER, arn=SESSION), KEY) is may
    if may:
        told = {e["ContextKeyName"]: e["ContextKeyType"] for a in door.asked for e in a["ContextEntries"]}
        assert told == {"kms:ViaService": "string", "kms:GrantIsForAWSResource": "boolean"}
