"""`set_backend_options`: an account named in Python, verified before it is saved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_coiled import Ec2DaskAccount, load_account, set_backend_options
from prefect_coiled.blocks.masked import MASK
from prefect_coiled.errors import AccountError, CredentialsError, OptionsError
from prefect_coiled.options import merge
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.saved_accounts import reset_account

from .conftest import held, run

NETWORK = {"network_id": "vpc-0123456789abcdef0", "scheduler_subnet_id": "subnet-0123456789abcdef0"}
TEAM = {"ports": [8786], "cidr": "10.0.0.0/8"}


def options_of(slug: str) -> Any:
    return merge(None, load_account(slug).options).options


def test_it_says_which_account_and_user_the_keys_are_of(
    save: Callable[..., Any], keys: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    saved = save(**keys, aws_region="eu-west-1", zone="eu-west-1b")
    assert (saved.aws_account_id, saved.region) == ("123456789012", "eu-west-1")
    assert saved.arn.endswith(":user/installer")
    assert "Account saved: AWS account 123456789012 as arn:aws:iam::123456789012:user/installer" in (
        capsys.readouterr().out
    )
    assert options_of("saved").zone == "eu-west-1b"
    assert load_account("saved").credentials.access_key_id == keys["aws_access_key_id"]


def test_another_region_leaves_what_is_in_the_old_one_which_is_said(
    save: Callable[..., Any], keys: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    save(**keys, aws_region="eu-west-1")
    assert "stays" not in capsys.readouterr().out
    save(**keys, aws_region="us-east-1")
    assert "What account saved has in eu-west-1 stays there and costs: " in capsys.readouterr().out
    set_backend_options(account="saved", use_coiled_defaults=True)
    assert "What it has in AWS stays and costs: " in capsys.readouterr().out


def test_wrong_keys_are_told_and_nothing_is_saved(save: Callable[..., Any]) -> None:
    with pytest.raises(CredentialsError, match="InvalidClientTokenId"):
        save(aws_access_key_id="AKIAWRONG", aws_secret_access_key="wrong")
    with pytest.raises(AccountError, match="no block of that name"):
        load_account("saved")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"aws_region": "eu-nowhere-1"}, "must be one of"),
        ({"zone": "eu-west-1a"}, "is not in region us-east-1"),
        ({"firewall": {"ports": [0], "cidr": "0.0.0.0/0"}}, "must be a number from 1 to 65535"),
        ({"firewall": {"ports": [1], "cidr": "x"}}, "is not an IPv4 or IPv6 network"),
        ({"firewall": {"ports": [1]}, "ingress": [{"ports": [2]}]}, "cannot be given together"),
        ({"aws_access_key_id": "AKIA"}, "need both"),
        ({"backend": "gcp"}, "is not there"),
        ({"registry_type": "docker_hub"}, "needs a username"),
        ({"registry_type": "docker_hub", "registry_username": "Me"}, "must be lower case"),
        ({"registry_type": "docker_hub", "registry_username": "me"}, "needs an access token"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_one_line_before_any_call(
    save: Callable[..., Any], aws: Sandbox, options: dict[str, Any], text: str
) -> None:
    aws.clear_calls()
    with pytest.raises(OptionsError, match=text) as caught:
        save(**options)
    assert "\n" not in str(caught.value)
    assert aws.calls(None) == []


def test_what_is_not_given_goes_back_to_its_default(save: Callable[..., Any], keys: dict[str, str]) -> None:
    rules = [{"ports": [8786], "cidr": "10.0.0.0/8"}, {"ports": [8787], "cidr": "me"}]
    save(**keys, ingress=rules, spot=True, aws_region="us-west-2", zone="us-west-2b", tags={"team": "one"})
    first = options_of("saved")
    assert [(r.ports, r.cidr) for r in first.ingress] == [((8786,), "10.0.0.0/8"), ((8787,), "me")]
    assert (first.zone, first.spot_policy) == ("us-west-2b", "spot")
    save(**keys, ingress=rules)
    second = options_of("saved")
    assert (second.region, second.zone, second.spot_policy) == ("us-east-1", None, "on-demand")
    assert second.ingress == first.ingress
    assert load_account("saved").tags == {}


@pytest.mark.parametrize(
    ("narrow", "again", "wide"),
    [
        ({"firewall": TEAM}, {}, {"firewall": {"ports": [22, 8787, 8786], "cidr": "0.0.0.0/0"}}),
        ({"firewall": TEAM}, {"firewall": {"ports": [9000]}}, {"firewall": {"ports": [9000], "cidr": "me"}}),
        ({"ingress": []}, {"firewall": {}}, {"firewall": TEAM}),
        ({"egress": "none"}, {}, {"egress": "nat"}),
        ({"network": NETWORK}, {"egress": "nat"}, None),
    ],
    ids=["firewall", "ports-alone", "closed", "way-out", "network"],
)
def test_what_would_open_an_account_wider_has_to_be_given(
    save: Callable[..., Any],
    keys: dict[str, str],
    narrow: dict[str, Any],
    again: dict[str, Any],
    wide: dict[str, Any] | None,
) -> None:
    save(**keys, **narrow)
    before = held("saved")
    with pytest.raises(OptionsError, match="was not given, and would become") as caught:
        save(**keys, **again)
    assert "\n" not in str(caught.value)
    assert held("saved") == before
    save(**keys, **narrow)
    assert held("saved") == before
    if wide is not None:
        save(**keys, **wide)
        assert held("saved") != before


def test_nothing_is_saved_where_nobody_can_tell_what_it_would_open(
    save: Callable[..., Any], keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(**keys, firewall=TEAM, monthly_budget=200)
    before = held("saved")

    def away(slug: str) -> Any:
        raise AccountError("account 'saved'", "the Prefect API could not be asked.")

    with monkeypatch.context() as patch:
        patch.setattr("prefect_coiled.blocks.loading._read", away)
        with pytest.raises(AccountError, match="could not be asked"):
            save(**keys)
    assert held("saved") == before


def test_keys_behind_a_mask_are_given_anew_and_all_else_counts_as_saved(
    save: Callable[..., Any], keys: dict[str, str]
) -> None:
    save(**keys, firewall=TEAM, monthly_budget=200)
    masked: Any = Ec2DaskAccount.load("saved")
    masked.aws_credentials.aws_secret_access_key = SecretStr(MASK)
    reset_account("saved")  # else the server keeps the secret behind the mask
    masked.save("saved")
    with pytest.raises(AccountError, match="mask"):
        load_account("saved")
    with pytest.raises(OptionsError, match="monthly_budget of the account: is saved as 200"):
        save(**keys)
    given = ["--access-key-id", keys["aws_access_key_id"]]
    given += ["--secret-access-key", keys["aws_secret_access_key"]]
    done = run("account", "edit", "saved", *given, "--yes")
    assert done.exit_code == 0, done.output
    assert held("saved")["ingress"].endswith("from 10.0.0.0/8")
    assert load_account("saved").monthly_budget == 200.0


def test_the_namespace_of_docker_hub_is_the_user_unless_given(
    save: Callable[..., Any], keys: dict[str, str]
) -> None:
    save(**keys, registry_type="docker_hub", registry_username="me", registry_access_token="dckr_pat_x")
    registry = options_of("saved").registry
    assert registry.effective_namespace == "me"
    assert registry.access_token.get_secret_value() == "dckr_pat_x"


def test_it_works_inside_an_event_loop(save: Callable[..., Any], keys: dict[str, str]) -> None:
    async def inside() -> Any:
        return save(**keys)

    assert asyncio.run(inside()).account == "saved"


def test_the_default_comes_back(
    save: Callable[..., Any], keys: dict[str, str], aws: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: aws.info)
    set_backend_options(**keys, endpoint_url=aws.endpoint)
    assert not load_account().is_sandbox
    set_backend_options(use_coiled_defaults=True)
    assert load_account().is_sandbox
    # Of another name there is no default to go back to.
    save(**keys)
    assert set_backend_options(account="saved", use_coiled_defaults=True) is None
    with pytest.raises(AccountError, match="no block of that name"):
        load_account("saved")
    save(**keys)
    assert "was reset" in run("account", "reset", "saved", "--yes").output
    assert "had no options" in run("account", "reset", "saved", "--yes").output


def test_python_says_what_it_changed(
    save: Callable[..., Any], keys: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    save(**keys, firewall=TEAM)
    capsys.readouterr()
    save(**keys, firewall={"ports": [22, 8787, 8786], "cidr": "0.0.0.0/0"})
    text = capsys.readouterr().out
    assert "  ingress_cidr: '10.0.0.0/8' -> '0.0.0.0/0'\n" in text
    assert "  ingress_ports: [8786] -> [22, 8787, 8786]\n" in text
