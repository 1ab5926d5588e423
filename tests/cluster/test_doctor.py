"""The doctor lives through a cluster's shortest life, leaves nothing, and its report names nobody."""

from __future__ import annotations

import re

import pytest

from prefect_coiled.blocks import load_account
from prefect_coiled.doctor import Examination, Known, differences, examine, fields_of, hourly_price
from prefect_coiled.errors import OptionsError
from prefect_coiled.events import hearing
from prefect_coiled.sandbox import Sandbox


def test_what_costs_more_than_is_allowed_is_refused_before_anything(sandbox: Sandbox) -> None:
    with pytest.raises(OptionsError, match="Allow more"):
        examine(load_account(None), spend=hourly_price(load_account(None)) / 60)


def test_the_shortest_life_comes_through_and_nothing_is_left(sandbox: Sandbox) -> None:
    told: list[str] = []
    with hearing(lambda event: told.append(event.step) if event.kind == "examination" else None):
        found = examine(load_account(None))
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
    text = found.model_dump_json()
    assert not re.search(r"\d{12}|\b(?:i|vpc|sg|subnet|ami|lt)-[0-9a-f]{8}|\d+\.\d+\.\d+\.\d+|arn:", text)
    assert Examination.model_validate_json(text) == found


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
