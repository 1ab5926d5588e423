"""The registry block: where images of software environments are kept."""

from __future__ import annotations

from typing import Any, Literal

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, model_validator

from prefect_coiled.blocks.base import AWS_LOGO, DOCUMENTATION, NO_INPUT, StrictFields
from prefect_coiled.options import RegistryOptions


class Ec2DaskRegistry(StrictFields, Block):
    """Where the container images of EC2 Dask clusters are kept: Amazon ECR or Docker Hub.

    Example:
        Load a stored registry:
        ```python
        from prefect_coiled import Ec2DaskRegistry

        registry = Ec2DaskRegistry.load("BLOCK_NAME")
        ```
    """

    model_config = NO_INPUT
    _block_type_name = "EC2 Dask Registry"
    _block_type_slug = "ec2-dask-registry"
    _logo_url = AWS_LOGO  # type: ignore[assignment]
    _documentation_url = DOCUMENTATION  # type: ignore[assignment]

    kind: Literal["ecr", "docker_hub"] = Field(
        title="Registry",
        description="Amazon ECR in the same AWS account, which needs nothing else here, or Docker Hub.",
        examples=["ecr"],
    )
    uri: str = Field(
        default="docker.io",
        title="Docker Hub Address",
        description="Host of the registry. Docker Hub only.",
        examples=["docker.io"],
    )
    username: str = Field(
        default="",
        title="Docker Hub User",
        description="User name in lower case. Docker Hub only.",
        examples=["my-team"],
    )
    access_token: SecretStr = Field(
        default=SecretStr(""),
        title="Docker Hub Access Token",
        description="A personal access token that may read and write. Docker Hub only.",
        examples=["dckr_pat_..."],
    )
    namespace: str = Field(
        default="",
        title="Docker Hub Namespace",
        description="Organization that owns the images; the user when empty. Docker Hub only.",
        examples=["my-organization"],
    )

    @model_validator(mode="after")
    def _complete(self) -> Ec2DaskRegistry:
        RegistryOptions(**registry_layer(self))
        return self


def registry_layer(block: Ec2DaskRegistry) -> dict[str, Any]:
    """What a registry block says, as a value of the option `registry`."""
    layer: dict[str, Any] = {name: getattr(block, name) for name in ("kind", "uri", "username", "namespace")}
    if block.access_token.get_secret_value().strip():
        layer["access_token"] = block.access_token
    return {name: value for name, value in layer.items() if value != ""}
