"""The account block: where machines run, who pays, and how they are reached.

Fields are flat and of the kinds that Prefect's form renders well: drop-downs, switches, texts with
an empty default. The form runs no validator, so everything is checked when the block is made or
loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from prefect.blocks.core import Block
from prefect_aws import AwsCredentials
from pydantic import Field, field_validator, model_validator

from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.blocks.base import AWS_LOGO, DOCUMENTATION, NO_INPUT, StrictFields
from prefect_coiled.blocks.masked import MASK, named_again
from prefect_coiled.blocks.registry import Ec2DaskRegistry, registry_layer
from prefect_coiled.errors import AccountError, OptionsError
from prefect_coiled.options import DEFAULT_PORTS, BackendOptions, Egress, NetworkIds, Region
from prefect_coiled.plan.boundary import check_boundary
from prefect_coiled.plan.budget import read_budget, write_budget


class Ec2DaskAccount(StrictFields, Block):
    """An AWS account for Dask clusters on EC2: its credentials, region, network and machines.

    The name of the block document is the account's slug: name one `default` and it is used wherever
    no account is named.

    In the form, add credentials and a registry first and type the name last: adding one saves the form
    too once it has a name.

    Example:
        Load a stored account:
        ```python
        from prefect_coiled import Ec2DaskAccount

        account = Ec2DaskAccount.load("BLOCK_NAME")
        ```
    """

    model_config = NO_INPUT
    _block_type_name = "EC2 Dask Account"
    _block_type_slug = "ec2-dask-account"
    _logo_url = AWS_LOGO  # type: ignore[assignment]
    _documentation_url = DOCUMENTATION  # type: ignore[assignment]

    region: Region = Field(
        title="Region",
        description="AWS region in which clusters run.",
        examples=["us-east-1"],
    )
    zone: str = Field(
        default="",
        title="Zone",
        description="Availability zone of that region; when empty, one is chosen.",
        examples=["us-east-1b"],
    )
    aws_credentials: AwsCredentials = Field(
        default_factory=AwsCredentials,
        title="AWS Credentials",
        description="Long-lived keys, a profile or a role; when empty, what AWS tools find on the machine.",
        examples=[{"profile_name": "my-team"}],
    )
    role_arn: str = Field(
        default="",
        title="Role to Assume",
        description="ARN of an IAM role to work as. It is assumed again before it expires.",
        examples=["arn:aws:iam::123456789012:role/dask"],
    )
    external_id: str = Field(
        default="",
        title="External ID",
        description="External id that the role's trust policy asks for, if any.",
        examples=["my-external-id"],
    )
    permissions_boundary: str = Field(
        default="",
        title="Permissions Boundary",
        description="ARN of a policy that bounds the machines' role; the account's own when empty; or none.",
        examples=["arn:aws:iam::123456789012:policy/coiled-boundary-my-team"],
    )
    spot: bool = Field(
        default=False,
        title="Spot Workers",
        description="Whether workers are spot machines: cheaper, but AWS may take them back.",
        examples=[True],
    )
    spot_policy: Literal["spot", "spot_with_fallback"] = Field(
        default="spot",
        title="Spot Policy",
        description="With spot workers: spot only, or on-demand machines where there are no spot ones.",
        examples=["spot_with_fallback"],
    )
    ingress_ports: list[int] = Field(
        default=list(DEFAULT_PORTS),
        title="Open Ports",
        description="Ports of the scheduler that are reachable from outside, 1 to 65535.",
        examples=[[8786, 8787]],
    )
    ingress_cidr: str = Field(
        default="0.0.0.0/0",
        title="Reachable From",
        description='Networks that may reach these ports, parted by commas; "me" is your own address.',
        examples=["203.0.113.0/24", "me"],
    )
    ingress_rules: list[dict[str, Any]] = Field(
        default_factory=list,
        title="Ingress Rules",
        description="Rules with ports and networks of their own, instead of the two fields above.",
        examples=[[{"ports": [8786], "cidr": "203.0.113.0/24"}, {"ports": [8787], "cidr": "me"}]],
    )
    egress: Egress = Field(
        default="nat",
        title="Way Out",
        description="How workers reach the internet: a NAT gateway, public addresses of their own, or not.",
        examples=["public-ip"],
    )
    registry: Ec2DaskRegistry = Field(
        default_factory=lambda: Ec2DaskRegistry(kind="ecr"),
        title="Registry",
        description="Where images are kept; Amazon ECR of the same account when empty.",
        examples=[{"kind": "ecr"}],
    )
    network_id: str = Field(
        default="",
        title="Network",
        description="VPC of your own to use; when empty, a network is made for the account.",
        examples=["vpc-0123456789abcdef0"],
    )
    scheduler_subnet_id: str = Field(
        default="",
        title="Scheduler Subnet",
        description="Subnet of the scheduler. Needed with a network of your own.",
        examples=["subnet-0123456789abcdef0"],
    )
    worker_subnet_id: str = Field(
        default="",
        title="Worker Subnet",
        description="Subnet of the workers; the scheduler's when empty.",
        examples=["subnet-0fedcba9876543210"],
    )
    scheduler_firewall_id: str = Field(
        default="",
        title="Scheduler Security Group",
        description="Security group of the scheduler; made for each cluster when empty.",
        examples=["sg-0123456789abcdef0"],
    )
    firewall_id: str = Field(
        default="",
        title="Cluster Security Group",
        description="Security group of all machines of a cluster; made for each cluster when empty.",
        examples=["sg-0fedcba9876543210"],
    )
    give_workers_public_ip: bool = Field(
        default=False,
        title="Public Worker Addresses",
        description="Whether workers in a network of your own get public addresses.",
        examples=[False],
    )
    tags: dict[str, str] = Field(
        default_factory=dict,
        title="Tags",
        description="Tags for everything that is made in AWS.",
        examples=[{"team": "research"}],
    )
    monthly_budget: str = Field(
        default="",
        title="Monthly Budget",
        description="US dollars a calendar month (UTC) that its clusters may cost; none when empty.",
        examples=["200"],
    )
    sandbox: bool = Field(
        default=False,
        title="Sandbox",
        description="Run in the sandbox on the machine of the flow, without an AWS account.",
        examples=[True],
    )

    @model_validator(mode="before")
    @classmethod
    def _named_again(cls, data: Any) -> Any:
        return named_again(cls, data) if isinstance(data, Mapping) else data

    @field_validator("monthly_budget", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return write_budget(value) if number and math.isfinite(value) else value

    @model_validator(mode="after")
    def _usable(self) -> Ec2DaskAccount:
        BackendOptions(**account_layer(self))
        credential_source(self)
        if self.permissions_boundary.strip():
            check_boundary(self.permissions_boundary.strip())
        read_budget(self.monthly_budget)
        return self


def account_layer(block: Ec2DaskAccount) -> dict[str, Any]:
    """What an account block says, as one layer of the backend options; only what differs from nothing."""
    layer: dict[str, Any] = {"region": block.region}
    if block.zone.strip():
        layer["zone"] = block.zone.strip()
    if block.spot:
        layer["spot_policy"] = block.spot_policy
    cidrs = [cidr.strip() for cidr in block.ingress_cidr.split(",") if cidr.strip()]
    if block.ingress_rules:
        layer["ingress"] = block.ingress_rules
    elif not block.ingress_ports:
        layer["ingress"] = []
    elif not cidrs:
        raise OptionsError(
            "Reachable From",
            "is blank, which opens nothing.",
            'Write "0.0.0.0/0" for everybody, "me" for your own address, or leave the ports empty.',
        )
    else:
        layer["ingress"] = [{"ports": block.ingress_ports, "cidr": cidr} for cidr in cidrs]
    layer["egress"] = block.egress
    layer["registry"] = registry_layer(block.registry)
    network = {name: value for name in NetworkIds.model_fields if (value := getattr(block, name)) != ""}
    if len(network) > 1:  # more than whether workers get addresses
        layer["network"] = network
    return layer


def credential_source(block: Ec2DaskAccount) -> CredentialSource:
    """The credentials of an account block.

    Raises:
        AccountError: They are of a kind that cannot last for a run, or contradict each other.
    """
    aws = block.aws_credentials
    if aws.aws_session_token:
        raise AccountError(
            "aws_credentials",
            "hold a static session token, which would expire in the middle of a run.",
            "Use a profile, a role to assume, or the long-lived keys of an IAM user.",
        )
    if bool(aws.aws_access_key_id) != bool(aws.aws_secret_access_key):
        raise AccountError("aws_credentials", "need both the access key id and the secret key, or neither.")
    secret = aws.aws_secret_access_key
    if secret is not None and secret.get_secret_value() == MASK:
        raise AccountError(
            "aws_credentials",
            "hold the mask that is shown in the place of a secret key, and not the key.",
            "Choose the block of the AWS credentials in the account's form again, or give the key anew.",
        )
    parameters = aws.aws_client_parameters
    for name in ("verify", "verify_cert_path", "api_version", "config", "use_ssl"):
        value = getattr(parameters, name)
        # A form sends what nobody changed as well.
        if value is False or (value is not True and value not in (None, "", {})):
            raise AccountError(
                f"aws_credentials.aws_client_parameters.{name}",
                "is not used here: only endpoint_url is.",
                "Take it out. For certificates of your own, set AWS_CA_BUNDLE.",
            )
    role, args = block.role_arn.strip(), aws.assume_role_kwargs.get_params_override()
    if args.get("SerialNumber") or args.get("TokenCode"):
        raise AccountError(
            "aws_credentials", "ask for an MFA code, with which a role cannot be assumed again unattended."
        )
    if role and aws.assume_role_arn and role != aws.assume_role_arn:
        raise AccountError("role_arn", "names another role than the AWS credentials do.", "Give one of them.")
    external = str(args.pop("ExternalId", ""))
    if external and block.external_id.strip() not in ("", external):
        raise AccountError("external_id", "is another one than in the AWS credentials.", "Give one of them.")
    if args and not (role or aws.assume_role_arn):
        raise AccountError(
            "aws_credentials.assume_role_kwargs",
            f"say {', '.join(sorted(args))} of a role, and there is none.",
            "Name the role in role_arn, or take them out.",
        )
    return CredentialSource(
        access_key_id=aws.aws_access_key_id or "",
        secret_access_key=aws.aws_secret_access_key if aws.aws_access_key_id else None,
        profile=aws.profile_name or "",
        role_arn=role or aws.assume_role_arn or "",
        external_id=block.external_id.strip() or external,
        session_name=str(args.pop("RoleSessionName", "") or "prefect-coiled"),
        role_args=args,
    )
