"""The doctor lives through a cluster's shortest life, leaves nothing, and its report names nobody."""

from __future__ import annotations

import re

import pytest

from prefect_coiled.blocks import load_account
from prefect_coiled.cli import app
from prefect_coiled.doctor import Examination, Known, differences, examine, fields_of, hourly_price, kind_of
from prefect_coiled.errors import OptionsError
from prefect_coiled.events import hearing
from prefect_coiled.sandbox import Sandbox


def test_what_costs_more_than_is_allowed_is_refused_before_anything(sandbox: Sandbox) -> None:
    with pytest.raises(OptionsError, match="Allow more"):
        examine(load_account(None), spend=hourly_price(load_account(None)) / 60)


def test_the_shortest_life_comes_through_and_its_json_stands_alone(
    sandbox: Sandbox, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    capfd.readouterr()
    with (
        hearing(lambda event: told.append(event.step) if event.kind == "examination" else None),
        pytest.raises(SystemExit) as ended,
    ):
        app(["doctor", "--json"], prog_name="prefect-coiled")
    text = capfd.readouterr().out
    found = Examination.model_validate_json(text)  # anything beside it is an error
    assert ended.value.code in (None, 0)
    assert set(told) > {step.name for step in found.steps}, "and how far the launch is"
    assert [s.name for s in found.steps] == [
        "check",
        "room",
        "set-up",
        "cluster",
        "flow",
        "logs",
        "close",
        "sweep",
    ]
    assert found.ok, found
    assert found.sandbox
    assert found.usd_at_most <= 0.5
    assert found.calls["ec2:RunInstances"] == 2
    assert found.unknown_codes == ()
    # What the sandbox answers is the baseline.
    assert (found.fields, found.lacking) == ({}, {})
    assert not re.search(r"\d{12}|\b(?:i|vpc|sg|subnet|ami|lt)-[0-9a-f]{8}|\d+\.\d+\.\d+\.\d+|arn:", text)


@pytest.mark.parametrize(
    ("left", "kind"),
    {
        "sg-0123456789abcdef0": "sg",
        "i-01234567": "i",
        "security group": "security group",
        "/prefect-coiled/my-team/doctor-1a2b3c/intent": "parameter",
        "/prefect-coiled/my-team/lease": "parameter",
        "arn:aws:iam::123456789012:policy/coiled-boundary-my-team": "policy",
        "coiled-123456789012-us-east-1-my-team": "other",
        "doctor-1a2b3c": "other",
        "my-team": "other",
        "acme-01234567": "other",
    }.items(),
)
def test_what_is_left_is_reported_by_its_kind_and_by_no_name(left: str, kind: str) -> None:
    assert kind_of(left) == kind


def test_a_failure_is_a_line_of_the_report_and_leaves_nothing(sandbox: Sandbox) -> None:
    rule = {"service": "ec2", "action": "RunInstances", "effect": "error", "status": 400}
    sandbox.faults([{**rule, "code": "PendingVerification"}])
    try:
        found = examine(load_account(None))
    finally:
        sandbox.faults([])
    assert not found.ok
    (failed,) = (s for s in found.steps if not s.ok)
    assert (failed.name, failed.error) == ("cluster", "AccountStateError PendingVerification")
    assert found.steps[-1].name == "sweep"
    assert found.codes["ec2:RunInstances PendingVerification"] >= 1
    assert (found.fields, found.lacking) == ({}, {})  # lists without machines lack nothing
    assert found.left == ()


def test_fields_are_named_and_values_are_not() -> None:
    answer = {"Vpcs": [{"VpcId": "vpc-1", "Tags": [{"Key": "a"}]}], "ResponseMetadata": {"RequestId": "x"}}
    assert set(fields_of(answer)) == {"Vpcs", "Vpcs.VpcId"}


def test_an_answer_differs_by_what_is_new_and_by_what_each_life_has() -> None:
    known = {"ec2:DescribeVpcs": Known(frozenset({"Vpcs", "Vpcs.VpcId"}), frozenset({"Vpcs.CreditsLeft"}))}

    def of(*fields: str) -> tuple[list[str], list[str]]:
        more, less = differences({"ec2:DescribeVpcs": set(fields)}, known)
        return [one for f in more.values() for one in f], [one for f in less.values() for one in f]

    assert of("Vpcs", "Vpcs.VpcId") == ([], [])
    assert of("Vpcs", "Vpcs.VpcId", "Vpcs.CreditsLeft") == ([], [])
    assert of("Vpcs") == ([], [])  # the list was empty
    assert of("Vpcs", "Vpcs.New") == (["Vpcs.New"], ["Vpcs.VpcId"])
    assert of("Other") == (["Other"], ["Vpcs"])
    assert differences({"ec2:New": {"A"}}, known) == ({"ec2:New": ("A",)}, {})
