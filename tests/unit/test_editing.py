"""An account with some options changed: what is not said stays, and nothing is opened unasked."""

from __future__ import annotations

from typing import Any

import pytest
from prefect_aws import AwsCredentials
from pydantic import SecretStr

from prefect_coiled import Ec2DaskAccount, Ec2DaskRegistry
from prefect_coiled.blocks.account import account_layer, credential_source
from prefect_coiled.blocks.changes import differences
from prefect_coiled.cli.flags import AccountFlags
from prefect_coiled.errors import PrefectCoiledError
from prefect_coiled.options import merge

KEYS = {"aws_access_key_id": "AKIAOLD", "aws_secret_access_key": SecretStr("old-secret")}
MINE = {"network_id": "vpc-0123456789abcdef0", "scheduler_subnet_id": "subnet-0123456789abcdef0"}


def account(**changed: Any) -> Ec2DaskAccount:
    """An account with an own value of every option."""
    options: dict[str, Any] = {
        "region": "us-west-2",
        "zone": "us-west-2b",
        "spot": True,
        "ingress_ports": [8786],
        "ingress_cidr": "10.1.0.0/16",
        "egress": "public-ip",
        "tags": {"team": "research"},
        "role_arn": "arn:aws:iam::123456789012:role/dask",
        "external_id": "outside",
        "permissions_boundary": "arn:aws:iam::123456789012:policy/bound",
        "registry": Ec2DaskRegistry(kind="docker_hub", username="me", access_token=SecretStr("hub-token")),
        "aws_credentials": AwsCredentials(
            **KEYS, aws_client_parameters={"endpoint_url": "http://127.0.0.1:1"}
        ),
    }
    return Ec2DaskAccount(**{**options, **changed})


def held(block: Ec2DaskAccount) -> dict[str, str]:
    rows = {row.name: row.value for row in merge(None, account_layer(block)).rows()}
    source = credential_source(block)
    where = str(block.aws_credentials.aws_client_parameters.endpoint_url)
    return rows | {"tags": str(block.tags), "who": source.description, "where": where}


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ({}, {}),
        ({"zone": "us-west-2c"}, {"zone": "us-west-2c"}),
        ({"spot": False}, {"spot": "on-demand"}),
        ({"spot_policy": "spot_with_fallback"}, {"spot": "spot_with_fallback"}),
        ({"tag": ["cost=7"]}, {"tags": "{'team': 'research', 'cost': '7'}"}),
        ({"clear": ["tags"]}, {"tags": "{}"}),
        ({"clear": ["tags"], "tag": ["cost=7"]}, {"tags": "{'cost': '7'}"}),
        ({"port": [8787]}, {"ingress": "8787 from 10.1.0.0/16"}),
        (
            {"cidr": ["10.2.0.0/16", "10.3.0.0/16"]},
            {"ingress": "8786 from 10.2.0.0/16; 8786 from 10.3.0.0/16"},
        ),
        ({"close": True}, {"ingress": "nothing"}),
        ({"egress": "none"}, {"egress": "none"}),
        ({"region": "eu-west-1"}, {"region": "eu-west-1", "zone": "eu-west-1a"}),
        ({"region": "eu-west-1", "zone": "eu-west-1c"}, {"region": "eu-west-1", "zone": "eu-west-1c"}),
        (
            MINE,
            {"network": f"{MINE['network_id']} ({MINE['scheduler_subnet_id']}, subnet-0123456789abcdef0)"},
        ),
        ({"registry": "ecr"}, {"registry": "ecr"}),
        ({"registry": "docker_hub"}, {}),
        ({"registry_username": "you"}, {"registry": "docker_hub docker.io/you as you"}),
        (
            {"profile": "work"},
            {"who": "role arn:aws:iam::123456789012:role/dask through profile 'work'"},
        ),
        (
            {"access_key_id": "AKIANEW", "secret_access_key": "new"},
            {"who": "role arn:aws:iam::123456789012:role/dask through access key AKIANEW"},
        ),
        ({"clear": ["role"]}, {"who": "access key AKIAOLD"}),
        (
            {"clear": ["role", "credentials"]},
            {"who": "botocore's default credentials"},
        ),
        ({"endpoint_url": "http://127.0.0.1:2"}, {"where": "http://127.0.0.1:2"}),
    ],
    ids=str,
)
def test_what_is_given_changes_and_nothing_else(flags: dict[str, Any], changed: dict[str, str]) -> None:
    saved = account()
    after = AccountFlags(**flags).block(saved)
    assert held(after) == held(saved) | changed
    assert bool(differences(saved, after)) == bool(changed)
    assert held(saved) == held(account())


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"region": "eu-wst-1"}, "Did you mean 'eu-west-1'"),
        ({"zone": " "}, "--zone: is blank"),
        ({"zone": "eu-west-1a"}, "is not in region us-west-2"),
        ({"cidr": ["10.1.2.3/8"]}, "names one host"),
        ({"cidr": [""]}, "is blank, which opens nothing"),
        ({"port": [0]}, "must be a number from 1 to 65535"),
        ({"close": True, "port": [8786]}, "cannot be closed and open ports"),
        ({"tag": ["team"]}, "must look like NAME=VALUE"),
        ({"clear": ["region"]}, "cannot be emptied"),
        ({"access_key_id": "AKIA"}, "need both"),
        ({"access_key_id": "ASIA1", "secret_access_key": "x"}, "is a temporary key"),
        ({"network_id": "vpc-1", "scheduler_subnet_id": "subnet-1"}, "must be an id such as"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line(flags: dict[str, Any], text: str) -> None:
    with pytest.raises(PrefectCoiledError, match=text) as caught:
        AccountFlags(**flags).block(account())
    assert "\n" not in str(caught.value)


RULES = [{"ports": [8786], "cidr": "10.1.0.0/16"}, {"ports": [8787], "cidr": "0.0.0.0/0"}]


@pytest.mark.parametrize(("flags", "text"), [({"port": [8786]}, "networks"), ({"cidr": ["me"]}, "ports")])
def test_rules_that_differ_are_changed_as_a_whole(flags: dict[str, Any], text: str) -> None:
    saved = account(ingress_rules=RULES)
    with pytest.raises(PrefectCoiledError, match=f"has rules with different {text}"):
        AccountFlags(**flags).block(saved)
    after = AccountFlags(port=[8786], cidr=["10.9.0.0/16"]).block(saved)
    assert held(after) == held(saved) | {"ingress": "8786 from 10.9.0.0/16"}


def test_a_firewall_that_is_closed_opens_only_as_a_whole() -> None:
    saved = account(ingress_ports=[])
    with pytest.raises(PrefectCoiledError, match="is closed"):
        AccountFlags(port=[8786]).block(saved)


def test_rules_in_the_form_open_nothing_more_when_they_are_taken_out() -> None:
    saved = AccountFlags(port=[8786], cidr=["10.1.0.0/16"]).block(account(ingress_rules=RULES))
    assert (saved.ingress_rules, saved.ingress_ports, saved.ingress_cidr) == ([], [8786], "10.1.0.0/16")


def test_a_network_does_not_move_to_another_region() -> None:
    with pytest.raises(PrefectCoiledError, match="belongs to us-west-2"):
        AccountFlags(region="eu-west-1").block(account(**MINE))
    moved = AccountFlags(region="eu-west-1", clear=["network"]).block(account(**MINE))
    assert held(moved)["network"] == "made by the set-up"


def test_whoever_names_credentials_leaves_the_sandbox() -> None:
    saved = Ec2DaskAccount(region="us-east-1", sandbox=True)
    assert AccountFlags(egress="none").block(saved).sandbox
    assert not AccountFlags(profile="work").block(saved).sandbox


def test_no_difference_shows_a_secret() -> None:
    flags = AccountFlags(
        access_key_id="AKIANEW", secret_access_key="new-secret", registry_access_token="t0ken"
    )
    shown = [str(change) for change in differences(account(), flags.block(account()))]
    assert "aws_credentials.aws_secret_access_key: changed" in shown
    assert "registry.access_token: changed" in shown
    assert not any(secret in line for line in shown for secret in ("new-secret", "old-secret", "t0ken"))
