"""The script that a machine runs at its first boot, the same on AWS and in the sandbox.

It goes from a bare Amazon Linux 2023, or an image with most of the packages, to the node agent; or straight
to the agent where the image holds it. The scripts are `user_data.sh`, `bake.sh` and what both begin with,
`install.sh`, beside this file; here their blanks are filled in and their size is kept. For a node in a
container, `container.sh` takes the place of all that would be installed.
This module may not import boto3, prefect or distributed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple

from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.containers import ContainerImage
from prefect_coiled.plan.node_config import NodeConfig, check_dask_options

# Bytes before base64: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html
LIMIT = 16 * 1024
# From this line on, `container.sh` stands in for the rest of the script.
_CONTAINER = "@CONTAINER@\n"
# Versions that Amazon Linux 2023 has as packages: https://docs.aws.amazon.com/linux/al2023/ug/python.html
DISTRIBUTED_PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# What the recipe says at its end; with anything else the image is not taken.
BAKED = "baked"
_PYTHON = re.compile(r"^3\.\d{1,2}(\.\d{1,2})?([a-z]+\d*)?\+?\Z")
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_KEY = re.compile(r"^[A-Za-z0-9][A-Za-z0-9./_-]+\Z")


class Place(NamedTuple):
    """Where a machine finds the list of what it installs."""

    bucket: str
    key: str
    python: str


def user_data(
    config: NodeConfig, environment: Place | None = None, *, container: ContainerImage | None = None
) -> str:
    """Write the user data of one kind of machine.

    Args:
        config: What the machine is told. Anyone who may describe the instance can read it.
        environment: Where the list of packages is; None where the image holds the node: nothing is installed
            then, and a machine without it powers off.
        container: The image that the node runs in: then nothing is installed but Docker, and only the
            machine's own configuration counts.

    Returns:
        A bash script of at most 16 KiB.

    Raises:
        OptionsError: It would be larger, or the environment's place is none.
    """
    check_dask_options(config.worker_options, config.scheduler_options)
    absent = 'step "finding prefect-coiled-node in the image"\nexit 127'
    blanks = {"CONFIG": config.to_json(), "INSTALL": absent if environment is None else "install_all"}
    if environment is None:
        # A baked image without a lock at hand is taken as it is.
        blanks["INSTALL"] = f'if [ ! -x "$ENV/bin/prefect-coiled-node" ]; then\n{absent}\nfi'
    blanks |= _blanks(config.region, config.boot_timeout, environment)
    start, _, end = _script("user_data.sh").partition(_CONTAINER)
    if container is not None:
        blanks |= _container(container, config)
        end = _script("container.sh")
    text = _fill(start + end, blanks)
    size = len(text.encode())
    if size > LIMIT:
        settings = len(config.to_json().encode())
        raise OptionsError(
            f"user data would take {size:,} bytes and EC2 allows {LIMIT:,}: script {size - settings:,}, "
            f"settings {settings:,}",
            next_step="Use shorter worker_options or scheduler_options.",
        )
    return text


def bake_data(environment: Place, region: str, timeout: float) -> str:
    """The user data of the machine of which an image is taken.

    Args:
        timeout: Seconds until it gives up.
    """
    return _fill(_script("bake.sh"), {**_blanks(region, timeout, environment), "BAKED": BAKED})


def check_python(python: str, *, way_out: bool) -> None:
    """See that machines can have this Python.

    Args:
        way_out: Whether the machines reach the internet, for a download of Python.

    Raises:
        OptionsError: They cannot.
    """
    short = ".".join(python.split(".")[:2])
    if not way_out and short not in DISTRIBUTED_PYTHONS:
        raise OptionsError(
            f"Python {short} with egress 'none'",
            f"Amazon Linux 2023 has Python {', '.join(DISTRIBUTED_PYTHONS)} alone, and the machines cannot "
            "download another one",
            "Run the client with one of these, or use egress 'nat'.",
        )


def _blanks(region: str, timeout: float, environment: Place | None) -> dict[str, str]:
    place = environment or Place("none", "none", "3")
    if environment is not None:
        if not _PYTHON.match(place.python):
            raise OptionsError(f"python: {place.python!r} is not a version such as '3.11' or '3.11.9'")
        if not _BUCKET.match(place.bucket) or not _KEY.match(place.key):
            raise OptionsError(f"environment: s3://{place.bucket}/{place.key} is no address of a lock")
    return {
        "PYTHON": place.python,
        "PYTHON_MINOR": ".".join(place.python.split(".")[:2]),
        "BUCKET": place.bucket,
        "LOCK": place.key,
        "REGION": shlex.quote(region),
        "BOOT_TIMEOUT": str(int(timeout)),
    }


def _fill(template: str, blanks: Mapping[str, str]) -> str:
    return _put(template, {**blanks, "INSTALLER": _put(_script("install.sh"), blanks).rstrip()})


def _script(name: str) -> str:
    return resources.files("prefect_coiled.plan").joinpath(name).read_text(encoding="utf-8")


def _put(template: str, blanks: Mapping[str, str]) -> str:
    # One pass: what is filled in is not looked at again.
    return re.sub(r"@([A-Z_]+)@", lambda m: blanks.get(m[1], m[0]), template)


def token_parameter(config: NodeConfig) -> str:
    """Name of the SSM SecureString with the registry's token, beside the node's keys."""
    return f"{config.secrets_parameter.rpartition('/')[0]}/registry"


def _container(image: ContainerImage, config: NodeConfig) -> dict[str, str]:
    """The blanks of a node in a container. The registry's token goes from SSM to Docker by a pipe alone."""
    aws = f'step "logging in at {image.host}"\nlog_in aws --region {shlex.quote(config.region)}'
    fetch = {
        "none": ":",
        "ecr": f"{aws} ecr get-login-password",
        "token": f"{aws} ssm get-parameter --name {shlex.quote(token_parameter(config))} --with-decryption "
        "--query Parameter.Value --output text",
    }
    return {
        "IMAGE": shlex.quote(image.reference),
        "HOST": shlex.quote(image.host),
        "USER": shlex.quote(image.username),
        "LOGIN": fetch[image.login],
        "GPUS": " --gpus all" if config.gpu else "",
    }
