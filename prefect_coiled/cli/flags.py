"""The flags that say what an account is: one list, for `setup aws` and for `account edit`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefect_coiled.cli import names
from prefect_coiled.errors import OptionsError

if TYPE_CHECKING:
    from prefect_coiled.blocks import Ec2DaskAccount


@dataclass
class AccountFlags:
    """What was given; None for what was not."""

    region: Annotated[str | None, typer.Option(help="AWS region.", autocompletion=names.regions)] = None
    zone: Annotated[str | None, typer.Option(help="Availability zone.")] = None
    profile: Annotated[str | None, typer.Option(help="A profile of ~/.aws.")] = None
    access_key_id: Annotated[str | None, typer.Option(help="Access key id of an IAM user.")] = None
    secret_access_key: Annotated[
        str | None, typer.Option(envvar="PREFECT_COILED_SECRET_ACCESS_KEY", help="Its secret key.")
    ] = field(default=None, repr=False)
    role_arn: Annotated[str | None, typer.Option(help="A role to assume.")] = None
    external_id: Annotated[str | None, typer.Option(help="External id that the role asks for.")] = None
    permissions_boundary: Annotated[
        str | None, typer.Option(help='Policy that bounds the role, or "none".')
    ] = None
    spot: Annotated[
        bool | None, typer.Option("--spot/--no-spot", help="Whether workers are spot machines.")
    ] = None
    spot_policy: Annotated[str | None, typer.Option(help='"spot" or "spot_with_fallback".')] = None
    port: Annotated[list[int] | None, typer.Option(help="Open port; several times for more.")] = None
    cidr: Annotated[
        list[str] | None,
        typer.Option(help='Network that may come in, or "me".'),
    ] = None
    close: Annotated[bool, typer.Option("--close", help="Open nothing.")] = False
    egress: Annotated[str | None, typer.Option(help='Way out: "nat", "public-ip" or "none".')] = None
    network_id: Annotated[str | None, typer.Option(help="A VPC of your own.")] = None
    scheduler_subnet_id: Annotated[str | None, typer.Option(help="Its subnet for schedulers.")] = None
    worker_subnet_id: Annotated[str | None, typer.Option(help="Its subnet for workers.")] = None
    scheduler_firewall_id: Annotated[str | None, typer.Option(help="Security group of schedulers.")] = None
    firewall_id: Annotated[str | None, typer.Option(help="Security group of all machines.")] = None
    tag: Annotated[list[str] | None, typer.Option(help="A tag, NAME=VALUE; several times for more.")] = None
    registry: Annotated[str | None, typer.Option(help='"ecr" or "docker_hub".')] = None
    registry_username: Annotated[str | None, typer.Option(help="Docker Hub user.")] = None
    registry_access_token: Annotated[
        str | None, typer.Option(envvar="PREFECT_COILED_REGISTRY_TOKEN", help="Docker Hub access token.")
    ] = field(default=None, repr=False)
    monthly_budget: Annotated[str | None, typer.Option(help="US dollars a month that clusters may cost.")] = (
        None
    )
    endpoint_url: Annotated[str | None, typer.Option(help="Where AWS's API is, if not at AWS.")] = None
    clear: Annotated[
        list[str] | None,
        typer.Option(
            help="Empty zone, tags, role, boundary, budget, network or credentials; several times for more."
        ),
    ] = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, str) and not value.strip():
                flag = "--" + one.name.replace("_", "-")
                raise OptionsError(flag, "is blank.", "Leave it out to keep what is saved; see --clear.")

        if self.spot is False and self.spot_policy is not None:
            raise OptionsError(
                "--no-spot", f"contradicts --spot-policy {self.spot_policy}.", "Give one of them."
            )

    @property
    def given(self) -> bool:
        """Whether anything was."""
        return any(getattr(self, f.name) not in (None, False, []) for f in fields(self))

    def complete(self) -> AccountFlags:
        """The same without what only makes sense with answers that are still to come."""
        made = replace(self)
        if self.access_key_id and not self.secret_access_key:
            made.access_key_id = None
        if self.registry and not (self.registry_username and self.registry_access_token):
            made.registry = made.registry_username = made.registry_access_token = None
        return made

    def block(self, saved: Ec2DaskAccount | None) -> Ec2DaskAccount:
        """What is saved, with what was given.

        Raises:
            OptionsError: If something that was given is not right.
            AccountError: If the credentials are of a kind that cannot be used.
        """
        from prefect_coiled.blocks.editing import NETWORK_FIELDS, edited
        from prefect_coiled.options.ingress import Firewall

        names = ["region", "zone", "spot", "spot_policy", "egress", "role_arn", "external_id"]
        names += ["permissions_boundary", "monthly_budget"]
        plain = {name: getattr(self, name, None) for name in (*names, *NETWORK_FIELDS)}
        tags = dict(saved.tags) if saved is not None and "tags" not in (self.clear or ()) else {}
        if self.tag:
            plain["tags"] = {**tags, **dict(_pair(text) for text in self.tag)}
        firewall = None
        if self.port or self.cidr or self.close:
            firewall = Firewall(self.port or None, self.cidr or None, self.close)
        registry = {
            "kind": self.registry.lower().replace("-", "_") if self.registry else None,
            "username": self.registry_username,
            "access_token": self.registry_access_token,
        }
        credentials = {
            "profile_name": self.profile,
            "aws_access_key_id": self.access_key_id,
            "aws_secret_access_key": self.secret_access_key,
        }
        return edited(
            saved,
            fields=_said(plain),
            firewall=firewall,
            registry=_said(registry),
            credentials=_said(credentials),
            endpoint_url=self.endpoint_url,
            clear=self.clear or (),
        )


def _said(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise OptionsError(f"tag {text!r}", "must look like NAME=VALUE.")
    return name.strip(), value
