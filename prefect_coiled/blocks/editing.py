"""An account block with some of its fields changed: what is not named stays as it is.

Pure: nothing is loaded, saved or asked for. What a change would open without saying so is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prefect_aws import AwsCredentials
from pydantic import SecretStr

from prefect_coiled.blocks.account import Ec2DaskAccount, account_layer
from prefect_coiled.blocks.registry import Ec2DaskRegistry
from prefect_coiled.errors import AccountError, OptionsError
from prefect_coiled.internals.api_errors import without_user
from prefect_coiled.options import BackendOptions, NetworkIds, merge
from prefect_coiled.options.base import check_known
from prefect_coiled.options.ingress import ANYWHERE, Firewall, IngressRule, changed_rules, lets_in_more
from prefect_coiled.options.models import check_zone
from prefect_coiled.plan.tags import check_user_tags

NETWORK_FIELDS = tuple(NetworkIds.model_fields)
# Fields that can be emptied, and what else is emptied with them.
CLEARABLE: dict[str, tuple[str, ...]] = {
    "zone": ("zone",),
    "tags": ("tags",),
    "role": ("role_arn", "external_id"),
    "boundary": ("permissions_boundary",),
    "budget": ("monthly_budget",),
    "network": NETWORK_FIELDS,
    "credentials": (),
}


def edited(
    block: Ec2DaskAccount | None,
    *,
    fields: Mapping[str, Any] | None = None,
    firewall: Firewall | None = None,
    rules: Sequence[IngressRule] | None = None,
    registry: Mapping[str, Any] | None = None,
    credentials: Mapping[str, Any] | None = None,
    endpoint_url: str | None = None,
    clear: Sequence[str] = (),
) -> Ec2DaskAccount:
    """The block with these changes, checked; the block itself stays as it is.

    Args:
        block: What is saved; None for an account that is new.
        fields: Fields of the block by name, but for those below.
        firewall: A change of the rules that are saved.
        rules: Rules instead of those that are saved.
        registry: Fields of the registry; those of the saved one stay, unless its kind changes.
        credentials: Fields of the AWS credentials, instead of the saved ones.
        clear: Names of `CLEARABLE` to empty.

    Raises:
        OptionsError: If the result would not be right.
        AccountError: If the credentials are of a kind that cannot be used.
    """
    given = dict(fields or {})
    before = {} if block is None else {n: getattr(block, n) for n in Ec2DaskAccount.model_fields}
    after = {**before, **given}
    if not after.get("region"):
        after["region"] = BackendOptions().region
    if endpoint_url and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", endpoint_url):
        raise OptionsError(
            f"endpoint_url {without_user(endpoint_url)!r}", "must begin with http:// or https:// and a host."
        )
    check_user_tags(given.get("tags") or {})
    check_known(clear, CLEARABLE, "clear {}", "cannot be emptied.")
    for name in clear:
        for field in (f for f in CLEARABLE[name] if f not in given):
            after[field] = Ec2DaskAccount.model_fields[field].get_default(call_default_factory=True)
    _follow_region(before, after, given)
    if "spot" not in given and "spot_policy" in given:
        after["spot"] = True
    if firewall is not None:
        there = BackendOptions(**account_layer(block)).ingress if block is not None else (IngressRule(),)
        rules = changed_rules(there, firewall)
    if rules is not None:
        after.update(_ingress_fields(rules))
    if registry:
        after["registry"] = _registry(before.get("registry"), registry)
    if credentials or endpoint_url or "credentials" in clear:
        after["aws_credentials"] = _credentials(
            before.get("aws_credentials"), credentials, endpoint_url, "credentials" in clear
        )
    if (credentials or given.get("role_arn")) and "sandbox" not in given:
        after["sandbox"] = False  # whoever names credentials means AWS
    return Ec2DaskAccount(**after)


def _follow_region(before: Mapping[str, Any], after: dict[str, Any], given: Mapping[str, Any]) -> None:
    """What belonged to the region before: a zone falls away, a network must be said anew."""
    if not before or before["region"] == after["region"]:
        return
    if "zone" not in given and after.get("zone"):
        try:
            check_zone(after["zone"], str(after["region"]))
        except OptionsError:
            after["zone"] = ""
    if after.get("network_id") and after["network_id"] == before.get("network_id"):
        raise OptionsError(
            f"network {after['network_id']}",
            f"belongs to {before['region']}, but region {after['region']!r} was asked for.",
            "Give a network of that region too, or clear it.",
        )


def stays_behind(before: Ec2DaskAccount, after: Ec2DaskAccount, slug: str) -> str:
    """What an account leaves in a region that it goes away from, in a sentence; empty where it stays."""
    if before.sandbox or not before.region or before.region == after.region:
        return ""
    return (
        f"What account {slug} has in {before.region} stays there and costs: "
        f"`prefect-coiled account destroy {slug} --region {before.region}` removes it."
    )


def _ingress_fields(rules: Sequence[IngressRule]) -> dict[str, Any]:
    """Rules as fields of the block: the two simple ones where they are enough.

    The form shows all three; what the simple ones say beside rules must not open anything once the rules
    are taken out.
    """
    if not rules:
        return {"ingress_rules": [], "ingress_ports": [], "ingress_cidr": ANYWHERE}
    if len({rule.ports for rule in rules}) == 1:
        cidrs = ", ".join(dict.fromkeys(rule.cidr for rule in rules))
        return {"ingress_rules": [], "ingress_ports": list(rules[0].ports), "ingress_cidr": cidrs}
    listed = [{"ports": list(rule.ports), "cidr": rule.cidr} for rule in rules]
    return {"ingress_rules": listed, "ingress_ports": [], "ingress_cidr": ANYWHERE}


def _registry(saved: Ec2DaskRegistry | None, given: Mapping[str, Any]) -> Ec2DaskRegistry:
    kept: dict[str, Any] = {}
    if saved is not None and given.get("kind", saved.kind) == saved.kind:
        kept = {name: getattr(saved, name) for name in Ec2DaskRegistry.model_fields}
    made = {"kind": "ecr", **kept, **given}
    if saved is not None and made == kept:
        return saved  # one that is saved apart stays that one
    return Ec2DaskRegistry(**made)


def _credentials(
    saved: AwsCredentials | None, given: Mapping[str, Any] | None, endpoint_url: str | None, cleared: bool
) -> AwsCredentials:
    made: dict[str, Any] = dict(given or {})
    if bool(made.get("aws_access_key_id")) != bool(made.get("aws_secret_access_key")):
        raise AccountError("AWS keys", "need both the access key id and the secret key, or neither.")
    if isinstance(made.get("aws_secret_access_key"), str):
        made["aws_secret_access_key"] = SecretStr(made["aws_secret_access_key"])
    if saved is not None and not made and not cleared:
        made = {n: getattr(saved, n) for n in type(saved).model_fields if n != "aws_client_parameters"}
    parameters: Any = saved.aws_client_parameters if saved is not None else None
    if endpoint_url:
        fields = parameters.model_dump(exclude_unset=True) if parameters is not None else {}
        parameters = {**fields, "endpoint_url": endpoint_url}
    if parameters is not None:
        made["aws_client_parameters"] = parameters
    return AwsCredentials(**made)


def check_nothing_opened(before: Ec2DaskAccount, after: Ec2DaskAccount, given: Collection[str]) -> None:
    """Refuse what would open an account wider than it is saved by an option that nobody gave.

    Args:
        given: Which of "ingress", "egress", "network" and "monthly_budget" were given.

    Raises:
        OptionsError: One of the others would open more.
    """
    if before.monthly_budget and not after.monthly_budget and "monthly_budget" not in given:
        raise OptionsError(
            "monthly_budget of the account",
            f"is saved as {before.monthly_budget}, was not given, and would be none.",
            "Give it too, or change single options by `prefect-coiled account edit`.",
        )
    old = merge(None, account_layer(before), config={})
    new = merge(None, account_layer(after), config={})
    opened = {
        "ingress": lets_in_more(new.options.ingress, old.options.ingress),
        "egress": old.options.egress != new.options.egress,
        "network": old.options.network is not None and new.options.network is None,
    }
    was, becomes = ({row.name: row.value for row in merged.rows()} for merged in (old, new))
    for name in (n for n, more in opened.items() if more and n not in given):
        raise OptionsError(
            f"{name} of the account",
            f"is saved as {was[name]}, was not given, and would become {becomes[name]}.",
            "Give it too, or change single options by `prefect-coiled account edit`.",
        )
