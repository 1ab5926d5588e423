"""All regions and all accounts: what is denied in one place is said, and keeps no other from being shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prefect_aws import AwsCredentials

from prefect_coiled import Cluster, Ec2DaskAccount
from prefect_coiled.blocks.loading import find_accounts
from prefect_coiled.options.models import REGIONS
from prefect_coiled.plan import tags
from prefect_coiled.sandbox import Sandbox, SandboxInfo

from .conftest import run


@pytest.fixture(scope="module")
def two_regions(sandbox: SandboxInfo) -> tuple[str, str]:
    """Regions in which the default account is set up."""
    regions = ("eu-west-2", "ca-central-1")
    for region in regions:
        assert run("setup", "region", "--region", region).exit_code == 0
    return regions


def rows(*words: str) -> list[dict[str, Any]]:
    shown = run(*words, "--json")
    assert shown.exit_code == 0, shown.output
    found: list[dict[str, Any]] = json.loads(shown.stdout)
    return found


def test_what_is_in_other_regions_is_shown_or_said_not_to_be_looked_at(cluster: Cluster) -> None:
    alone = run("ls", "--region", "eu-west-2").stdout
    assert alone.endswith("Other regions were not looked at: give --all-regions.\n")
    assert "of-the-cli" not in alone
    shown = run("ls", "--all-regions").stdout
    assert re.search(r"^default +us-east-1 +of-the-cli +running", shown, re.M)
    assert "not looked at" not in shown
    (row,) = [one for one in rows("ls", "--all-regions") if one["name"] == "of-the-cli"]
    assert (row["account"], row["region"]) == ("default", "us-east-1")
    paid = run("cost", "of-the-cli", "--all-regions").stdout
    assert re.search(r"^default +us-east-1 +of-the-cli +2 +\$0", paid, re.M)
    assert re.search(r"^total +\$0\.\d{4}", paid, re.M)
    assert run("cost", "never-was", "--all-regions").exit_code == 1


def test_what_costs_in_any_region_is_listed_and_what_all_share_once(two_regions: tuple[str, str]) -> None:
    gateways = {one["region"] for one in rows("cost", "--all-regions") if one["name"] == "(NAT gateways)"}
    assert gateways >= set(two_regions)
    found = rows("resources", "--all-regions")
    assert len([one for one in found if one["kind"] == "IAM role"]) == 1
    assert {one["region"] for one in found if one["kind"] == "VPC"} >= set(two_regions)


def test_a_sweep_of_all_regions_is_planned_shown_and_asked_about(two_regions: tuple[str, str]) -> None:
    planned = json.loads(run("sweep", "--all-regions", "--plan", "--json").stdout)
    going = {
        change["resource_id"]
        for plan in planned
        for change in plan["changes"]
        if change["action"] == "delete" and change["kind"] == "NAT gateway"
    }
    assert len(going) >= 2
    refused = run("sweep", "--all-regions", answer="n\n")
    assert refused.exit_code == 1
    assert all(one in refused.stdout for one in going)
    assert re.search(r"Remove these \d+ resources\?", refused.output)
    there = {one["resource_id"] for region in two_regions for one in rows("resources", "--region", region)}
    assert len(going & there) == 2
    done = json.loads(run("sweep", "--all-regions", "--yes", "--json").stdout)
    assert going <= set(done["removed"]["NAT gateway"])


def test_all_accounts_are_looked_at(sandbox: SandboxInfo) -> None:
    nowhere = AwsCredentials(
        aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
        aws_secret_access_key="nobodys",
        aws_client_parameters={"endpoint_url": sandbox.endpoint},
    )
    for name in ("one-of-two", "two-of-two"):
        Ec2DaskAccount(region="ap-south-1", sandbox=True).save(name, overwrite=True)
        assert run("setup", "region", "--account", name).exit_code == 0
    Ec2DaskAccount(region="us-east-1", aws_credentials=nowhere).save("nowhere", overwrite=True)
    elsewhere = AwsCredentials(profile_name="of-another-machine")
    Ec2DaskAccount(region="us-east-1", aws_credentials=elsewhere).save("elsewhere", overwrite=True)
    shown = run("cost", "--all-accounts", "--json")
    # One account whose AWS does not answer keeps no other from being shown.
    assert shown.exit_code == 1
    assert "Error: account nowhere in us-east-1: " in shown.stderr
    assert "Error: account elsewhere: profile 'of-another-machine'" in shown.stderr
    found = {(one["account"], one["region"]) for one in json.loads(shown.stdout)}
    assert found >= {("one-of-two", "ap-south-1"), ("two-of-two", "ap-south-1")}


def test_where_no_account_has_a_cluster_that_is_said_of_all_and_no_sandbox_is_started(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_coiled.sandbox.control.ensure_started", None)  # which would be the default
    told = run("cost", "never-was", "--all-accounts")
    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr == (
        "Error: cluster 'never-was': no cluster of any account has that name in the region of its block. "
        "Look in all regions: `prefect-coiled cost never-was --all-accounts --all-regions`.\n"
    )
    told = run("cost", "never-was", "--account", "saved", "--all-regions")
    assert told.stderr == (
        "Error: cluster 'never-was': no cluster of account saved has that name in any region. "
        "See `prefect-coiled ls --account saved --all-regions`.\n"
    )


@pytest.fixture
def alone(aws: Sandbox, save: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The account "saved" is the only one there is, so that all of them are soon looked at."""
    save(aws_access_key_id="sandbox", aws_secret_access_key=aws.info.secret_access_key)
    (saved,) = (one for one in find_accounts() if one.name == "saved")
    monkeypatch.setattr("prefect_coiled.blocks.loading.find_accounts", lambda: [saved])
    monkeypatch.setattr("prefect_coiled.cli.places._sandbox_runs", lambda: False)


@pytest.fixture
def unused(aws: Sandbox) -> Iterator[Callable[[], str]]:
    """Makes addresses that nothing uses."""
    ec2, made = aws.client("ec2"), list[str]()
    labels = [{"ResourceType": "elastic-ip", "Tags": tags.to_aws(tags.account_tags("saved"))}]

    def allocate() -> str:
        made.append(ec2.allocate_address(Domain="vpc", TagSpecifications=labels)["AllocationId"])
        return made[-1]

    yield allocate
    there = {one["AllocationId"] for one in ec2.describe_addresses()["Addresses"]}
    for one in there & set(made):
        ec2.release_address(AllocationId=one)


@pytest.mark.parametrize("words", ["--plan", "--yes"])
def test_a_sweep_of_many_places_with_nothing_to_do_says_so(words: str, alone: None) -> None:
    told = run("sweep", "--all-accounts", words)
    assert (told.exit_code, told.stdout) == (
        0,
        "Nothing of any account is to be removed in the region of its block.\n",
    )


def test_a_sweep_of_many_places_removes_what_was_agreed_to_and_says_where(
    alone: None, unused: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, late = unused(), list[str]()

    def agree(*_: Any, **__: Any) -> None:
        late.append(unused())

    monkeypatch.setattr("typer.confirm", agree)
    told = run("sweep", "--all-accounts")
    assert told.exit_code == 1
    heading = "Account saved in us-east-1\n"
    assert [first in part for part in told.stdout.split(heading)] == [False, True, False]
    assert told.stdout.endswith(
        f"{heading}Removed: 1 elastic address\nLeft: {late[0]}, it came after the plan, $0.0050 an hour\n"
    )
    # Where nobody is asked, all goes that is to go, and programs are told where it was.
    done = json.loads(run("sweep", "--all-accounts", "--yes", "--json").stdout)
    removed = {"elastic address": late}
    (place,) = done["places"]
    assert (place["account"], place["region"], place["removed"]) == ("saved", "us-east-1", removed)
    assert done["removed"] == removed


def test_what_a_sweep_of_many_places_cannot_remove_is_said(
    alone: None, unused: Callable[[], str], aws: Sandbox
) -> None:
    ec2, used = aws.client("ec2"), unused()
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    interface = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    held = ec2.associate_address(AllocationId=used, NetworkInterfaceId=interface)["AssociationId"]
    try:
        assert used in run("sweep", "--all-accounts", "--plan").stdout
        told = run("sweep", "--all-accounts")
    finally:
        ec2.disassociate_address(AssociationId=held)
        ec2.delete_network_interface(NetworkInterfaceId=interface)
    assert told.exit_code == 1
    assert f"\nRemoved: nothing\nLeft: {used}, " in told.stdout


def test_what_is_denied_in_one_region_is_said_and_the_others_are_shown() -> None:
    with Sandbox({"boot": "none", "iam": "on"}) as strict:
        allow = {"Effect": "Allow", "Action": ["ec2:Describe*", "sts:*"], "Resource": "*"}
        outside = {"StringEquals": {"aws:RequestedRegion": ["eu-west-1", "eu-west-3"]}}
        deny = {"Effect": "Deny", "Action": "ec2:*", "Resource": "*", "Condition": outside}
        key, secret = strict.add_user("limited", {"Version": "2012-10-17", "Statement": [allow, deny]})
        credentials = AwsCredentials(
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_client_parameters={"endpoint_url": strict.endpoint},
        )
        Ec2DaskAccount(region="us-east-1", aws_credentials=credentials).save("limited", overwrite=True)
        strict.clear_calls()
        shown = run("ls", "--account", "limited", "--all-regions")
        asked = [action for _, action in strict.calls(key) if action == "DescribeInstances"]
    assert shown.exit_code == 1
    assert len(asked) == len(REGIONS)
    assert shown.stdout == "No cluster of account limited runs in what could be looked at.\n"
    (line,) = shown.stderr.splitlines()
    assert line.startswith("Error: account limited in eu-west-1, eu-west-3: ")
    assert "UnauthorizedOperation" in line


def test_all_regions_and_one_of_them_contradict_each_other(sandbox: SandboxInfo) -> None:
    for words in ("ls --all-regions --region eu-west-1", "cost --all-accounts --account default"):
        told = run(*words.split())
        assert told.exit_code == 1
        assert "goes without --" in told.stderr
    assert "goes with --plan or --yes" in run("sweep", "--all-regions", "--json").stderr
