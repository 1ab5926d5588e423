"""Name an AWS account once, from Python: verify it, save its block, set it up, or go back to the default."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import SecretStr

from prefect_coiled.aws.caller import Caller, find_caller
from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.aws.zones import check_zone_there
from prefect_coiled.blocks import Ec2DaskAccount, account_from_block
from prefect_coiled.blocks.changes import differences
from prefect_coiled.blocks.editing import check_nothing_opened, edited, stays_behind
from prefect_coiled.blocks.loading import (
    account_slug,
    delete_account,
    find_accounts,
    load_account,
    replaced_block,
    save_block,
    saved_block,
)
from prefect_coiled.errors import AccountError, AwsError, OptionsError, printable
from prefect_coiled.internals.python import side_by_side
from prefect_coiled.options import BackendOptions, merge
from prefect_coiled.options.base import refuse_blank, refuse_others_than_texts
from prefect_coiled.options.ingress import says_who
from prefect_coiled.options.keywords import KEYWORDS
from prefect_coiled.plan.changes import Plan
from prefect_coiled.provision import plan_set_up, set_up_account
from prefect_coiled.records import AccountRecord, Record
from prefect_coiled.tasks.steps import Session, use_session

T = TypeVar("T")


class SavedAccount(Record):
    """What became of an account's options.

    Attributes:
        arn: The user or role that the credentials are of.
        resources: What set-up made or found; None if it was not asked for.
    """

    account: str
    region: str
    aws_account_id: str
    arn: str
    resources: AccountRecord | None = None

    def __str__(self) -> str:
        who = f"AWS account {self.aws_account_id} as {self.arn}"
        return f"Account {self.account}: {who}, {self.region}."


def set_backend_options(
    account: str | None = None,
    backend: str = "aws",
    firewall: Mapping[str, Any] | None = None,
    ingress: Sequence[Mapping[str, Any]] | None = None,
    network: Mapping[str, Any] | None = None,
    aws_region: str = "us-east-1",
    aws_access_key_id: str | None = None,
    aws_secret_access_key: str | None = None,
    zone: str | None = None,
    registry_type: str = "ecr",
    registry_namespace: str | None = None,
    registry_access_token: str | None = None,
    registry_uri: str = "docker.io",
    registry_username: str | None = None,
    use_coiled_defaults: bool = False,
    *,
    spot: bool = False,
    egress: str | None = None,
    profile: str | None = None,
    role_arn: str | None = None,
    external_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    endpoint_url: str | None = None,
    permissions_boundary: str | None = None,
    monthly_budget: str | float | None = None,
    run_setup: bool | None = None,
) -> SavedAccount | None:
    """Save where an account's clusters run. What is not given goes back to its default.

    What changes by that is printed. What would open an account wider than it is saved has to be given: its
    firewall, its workers' way out, a network of your own. `prefect-coiled account edit` changes some options
    and keeps the others.

    The credentials are verified first; nothing is saved if AWS does not accept them.

    Args:
        account: Slug of the account; by default `coiled.account` of the configuration, else "default".
        backend: "aws".
        firewall: {"ports": [...], "cidr": "..."}: who may reach which ports of schedulers.
        ingress: Several such rules; not together with `firewall`.
        network: A network of your own; see `BackendOptions`.
        aws_region: The region in which clusters run.
        aws_access_key_id: Long-lived key of an IAM user; with its secret key. Without keys, a profile or
            role, what AWS tools find on the machine.
        aws_secret_access_key: See `aws_access_key_id`.
        zone: Availability zone of the region.
        registry_type: "ecr" or "docker_hub".
        registry_namespace: Docker Hub namespace; the user name by default.
        registry_access_token: Docker Hub access token.
        registry_uri: Host of the registry, Docker Hub only.
        registry_username: Docker Hub user, lower case.
        use_coiled_defaults: Go back to the default: the account has no options of its own any more.
        spot: Whether workers are spot machines.
        egress: How workers reach the internet: "nat", "public-ip" or "none"; "nat" if not given.
        profile: A profile of `~/.aws`.
        role_arn: A role to assume.
        external_id: External id that the role asks for.
        tags: Tags for everything that is made in AWS.
        endpoint_url: Where AWS's API is, if not at AWS.
        permissions_boundary: ARN of a policy that bounds the machines' role, instead of the one that is made
            with the account's policies; "none" for a role without.
        monthly_budget: US dollars a calendar month (UTC) that its clusters may cost.
        run_setup: Whether to set the account up at once. By default, a terminal is asked.

    Returns:
        Which AWS account and user it is; None with `use_coiled_defaults`.

    Raises:
        OptionsError: If an option is wrong, or was not given and would open more; nothing was saved.
        CredentialsError: If AWS does not accept the credentials; nothing was saved.
    """
    slug = account_slug(account)
    if use_coiled_defaults:
        stays = f" {stays_after_reset(slug)}" if is_saved_in_aws(slug) else ""
        reset_account(slug)
        print(f"Account {slug} has no options of its own any more.{stays}")
        return None
    if backend != "aws":
        raise OptionsError(f"backend {backend!r}", "is not there.", 'The one there is: "aws".')
    refuse_others_than_texts(
        registry_namespace=registry_namespace,
        registry_access_token=registry_access_token,
        registry_uri=registry_uri,
        registry_username=registry_username,
        endpoint_url=endpoint_url,
        permissions_boundary=permissions_boundary,
    )
    registry: dict[str, Any] = {
        "kind": registry_type,
        "uri": registry_uri,
        "username": registry_username or "",
        "access_token": SecretStr(registry_access_token or ""),
        "namespace": registry_namespace or "",
    }
    block = make_account(
        {
            "region": aws_region,
            "zone": zone,
            "spot": spot,
            "firewall": firewall,
            "ingress": ingress,
            "network": network,
            "egress": egress,
        },
        registry,
        keys=(aws_access_key_id, aws_secret_access_key),
        profile=profile,
        role_arn=role_arn,
        external_id=external_id,
        tags=tags,
        endpoint_url=endpoint_url,
        permissions_boundary=permissions_boundary,
        monthly_budget=monthly_budget,
    )
    before = replaced_block(slug, ("aws_credentials", "registry"))
    rules = firewall or ingress
    # Other ports are no reason to let others in.
    said = {"ingress": rules is not None and says_who(rules), "egress": egress, "network": network}
    said["monthly_budget"] = monthly_budget is not None
    if before is not None:
        check_nothing_opened(before, block, [name for name, value in said.items() if value])
    changes = differences(before, block) if before is not None else ()
    saved = save_account(block, slug)
    print(printable(str(saved)))
    for change in changes:
        print(f"  {change}")
    if before is not None and (stays := stays_behind(before, block, slug)):
        print(stays)
    if run_setup is None and all(one is not None and one.isatty() for one in (sys.stdin, sys.stdout)):
        run_setup = input("Set it up now? [y/N] ").strip().lower() in ("y", "yes")
    return saved.model_copy(update={"resources": set_up(block, slug)}) if run_setup else saved


def make_account(
    options: Mapping[str, Any],
    registry: Mapping[str, Any] | None = None,
    *,
    keys: tuple[str | None, str | None] = (None, None),
    profile: str | None = None,
    role_arn: str | None = None,
    external_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    endpoint_url: str | None = None,
    permissions_boundary: str | None = None,
    monthly_budget: str | float | None = None,
) -> Ec2DaskAccount:
    """An account block, checked but not saved.

    Raises:
        OptionsError: If an option is wrong.
        AccountError: If the credentials are of a kind that cannot be used.
    """
    refuse_blank(
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        profile=profile,
        role_arn=role_arn,
        external_id=external_id,
    )
    checked = BackendOptions(**{k: v for k, v in options.items() if v is not None})
    credentials: dict[str, Any] = {}
    if any(keys):
        credentials = {"aws_access_key_id": keys[0], "aws_secret_access_key": keys[1]}
    elif profile:
        credentials = {"profile_name": profile}
    return edited(
        None,
        fields={
            "region": checked.region,
            "zone": checked.zone or "",
            "spot": checked.spot_policy != "on-demand",
            "egress": checked.egress,
            "role_arn": role_arn or "",
            "external_id": external_id or "",
            "permissions_boundary": permissions_boundary or "",
            "monthly_budget": "" if monthly_budget is None else monthly_budget,
            "tags": {} if tags is None else KEYWORDS["tags"].take(tags),
            **(checked.network.model_dump() if checked.network is not None else {}),
        },
        rules=checked.ingress,
        registry=registry,
        credentials=credentials,
        endpoint_url=endpoint_url,
    )


def save_account(block: Ec2DaskAccount, slug: str) -> SavedAccount:
    """Verify the credentials of an account block, then save it under the slug.

    Raises:
        CredentialsError: If AWS does not accept the credentials; nothing was saved.
        OptionsError: If the AWS account does not have the zone; nothing was saved.
    """
    loaded = account_from_block(block, slug)
    caller = _caller(loaded)
    if block.zone:
        with contextlib.suppress(AwsError):  # who may not look at zones yet may save them
            check_zone_there(loaded.door(), block.zone)
    _apart(lambda: save_block(block, slug))
    return SavedAccount(
        account=slug, region=block.region, aws_account_id=caller.aws_account_id, arn=caller.arn
    )


def set_up(block: Ec2DaskAccount, slug: str) -> AccountRecord:
    """Make what the account's clusters share. Stopped anywhere, it goes on when it is run again."""
    loaded = account_from_block(block, slug)
    options = merge(None, loaded.options).options
    with use_session(Session(loaded.door())):
        made: AccountRecord = set_up_account(slug, options.region, **shared(options))
    return made


def plan_of_set_up(block: Ec2DaskAccount, slug: str) -> Plan:
    """What `set_up` would make and repair. Changes nothing.

    Raises:
        PrefectCoiledError: AWS does not say it, or would refuse it.
    """
    loaded = account_from_block(block, slug)
    options = merge(None, loaded.options).options
    return plan_set_up(loaded.door(options.region), **shared(options))


def shared(options: BackendOptions) -> dict[str, Any]:
    """How a set-up is asked for what the clusters of an account with these options share."""
    return {
        "zone": options.default_zone,
        "egress": options.egress,
        "network": options.network is None,
        "registry": options.registry.kind,
    }


def reset_account(account: str | None = None) -> bool:
    """Delete the block of an account, so that the default holds again: for "default", the sandbox.

    What the account has in AWS stays; `prefect-coiled account destroy` removes that.

    Returns:
        Whether there was a block.
    """
    return delete_account(account_slug(account))


def is_saved_in_aws(slug: str) -> bool:
    """Whether there is a block of that name that is not of the sandbox; it need not be right.

    Raises:
        AccountError: The Prefect API could not be asked.
    """
    return any(one.name == slug and not one.data.get("sandbox") for one in find_accounts())


def stays_after_reset(slug: str) -> str:
    """What a reset leaves in AWS, in a sentence: without the block, no command finds it."""
    return (
        "What it has in AWS stays and costs: to remove that, name it again by "
        f"`prefect-coiled setup aws --account {slug}`, then run `prefect-coiled account destroy {slug}`."
    )


def verify(block: Ec2DaskAccount, slug: str) -> Caller:
    """Ask AWS who the credentials of a block are of.

    Raises:
        CredentialsError: If AWS does not accept them.
    """
    return _caller(account_from_block(block, slug))


def administrator(slug: str, profile: str | None = None) -> tuple[Account, Aws]:
    """The door by which somebody who manages IAM calls AWS for an account.

    Args:
        profile: A profile of `~/.aws`, also where the account has not been saved yet; else the account's own
            credentials.

    Raises:
        AccountError: There is neither, or the credentials cannot be used.
        OptionsError: The profile's name is blank: whoever names one does not mean the account's own keys.
    """
    refuse_blank(profile=profile)
    saved = saved_block(slug) if profile else None
    if profile:
        account = account_from_block(saved, slug) if saved is not None else Account(slug)
        if account.is_sandbox:
            raise AccountError(
                f"account {slug!r}", "is the sandbox, which knows no profiles.", "Leave --profile out."
            )
        account = replace(account, credentials=CredentialSource(profile=profile))
    else:
        account = load_account(slug)
    return account, account.door()


def _caller(account: Account) -> Caller:
    return find_caller(account.door())


def _apart(function: Callable[[], T]) -> T:
    """Run in a thread without an event loop, where Prefect's synchronous calls work whatever is running."""
    (answer,) = side_by_side(lambda _: function(), [None])
    return answer
