"""The script that a machine runs at its first boot, the same on AWS and in the sandbox.

It goes from a bare Amazon Linux 2023 to the node agent, or straight to the agent where the image holds
it. The script is `user_data.sh` beside this file; here its blanks are filled in and its size is kept. For a
node in a container, `container.sh` takes the place of all that would be installed.
This module may not import boto3, prefect or distributed.
"""

from __future__ import annotations

import base64
import gzip
import re
import shlex
from collections.abc import Sequence
from importlib import resources

from prefect_coiled.environment import DISTRIBUTION, LocalPackage
from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.containers import ContainerImage
from prefect_coiled.plan.node_config import NodeConfig, check_dask_options

__all__ = ["LIMIT", "token_parameter", "user_data"]

# Bytes before base64: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html
LIMIT = 16 * 1024
_PYTHON = re.compile(r"^3\.\d{1,2}(\.\d{1,2})?$")
# From this line on, `container.sh` stands in for the rest of the script.
_CONTAINER = "@CONTAINER@\n"
_FIND_LINKS = re.compile(r"^s3://[A-Za-z0-9][A-Za-z0-9./_-]+$")


def user_data(
    config: NodeConfig,
    packages: Sequence[str],
    python: str,
    *,
    image_ready: bool = False,
    find_links: str | None = None,
    container: ContainerImage | None = None,
) -> str:
    """Write the user data of one kind of machine.

    Args:
        config: What the machine is told. Anyone who may describe the instance can read it.
        packages: Pinned requirements, as `environment.client_packages()` gives them.
        python: The Python version to install, such as "3.11.9" or "3.11".
        image_ready: Whether the image holds the environment (the sandbox, a baked image): nothing is
            installed then, and a machine without it powers off.
        find_links: An `s3://` folder of wheels, copied with the instance's role before installing; the
            only way for packages that were installed from a directory of the client.
        container: The image that the node runs in: then nothing is installed but Docker, and only the
            machine's own configuration counts.

    Returns:
        A bash script of at most 16 KiB.

    Raises:
        OptionsError: It would be larger, or a bare machine could not install this package.
    """
    check_dask_options(config.worker_options, config.scheduler_options)
    if not _PYTHON.match(python):
        raise OptionsError(f"python: {python!r} is not a version such as '3.11' or '3.11.9'")
    if find_links and not _FIND_LINKS.match(find_links):
        raise OptionsError(f"find_links: {find_links!r} is not an address such as 's3://bucket/folder/'")
    left_out: list[str] = []
    image_ready = image_ready or container is not None
    if not image_ready:
        packages, left_out = _installable(packages, bool(find_links))
    text = _fill(
        config, [] if image_ready else packages, python, image_ready, find_links, left_out, container
    )
    size = len(text.encode())
    if size > LIMIT:
        fixed = len(_fill(config, [], python, image_ready, find_links, left_out, container).encode())
        settings = len(config.to_json().encode())
        raise OptionsError(
            f"user data would take {size:,} bytes and EC2 allows {LIMIT:,}: script {fixed - settings:,}, "
            f"settings {settings:,}, list of {len(packages):,} packages {size - fixed:,}",
            next_step="Use an environment with fewer packages, or shorter worker_options.",
        )
    return text


def _installable(packages: Sequence[str], with_wheels: bool) -> tuple[list[str], list[str]]:
    """What a bare machine can install, and what has to be left out."""
    own = [p for p in packages if re.match(rf"{DISTRIBUTION}\b", p)]
    if not own:
        raise OptionsError(
            f"packages: {DISTRIBUTION} is not among the client's packages, so no machine can install it",
            next_step="Install it into the client's environment instead of importing it from a folder.",
        )
    if with_wheels:
        return list(packages), []
    if isinstance(own[0], LocalPackage):
        raise OptionsError(
            f"packages: {own[0]} is installed from a directory, and a machine cannot install it by name",
            next_step="Put its wheel where find_links points, or install a released version.",
        )
    left_out: list[str] = [p for p in packages if isinstance(p, LocalPackage)]
    return [p for p in packages if not isinstance(p, LocalPackage)], left_out


def _fill(
    config: NodeConfig,
    packages: Sequence[str],
    python: str,
    image_ready: bool,
    find_links: str | None,
    left_out: Sequence[str],
    container: ContainerImage | None,
) -> str:
    listing = "".join(f"{line}\n" for line in packages).encode()
    packed = base64.b64encode(gzip.compress(listing, 9, mtime=0)).decode()
    note = f"  say {shlex.quote('left out, installed from a directory: ' + ', '.join(left_out))}\n"
    install = (
        '  step "finding prefect-coiled-node in the image"\n  exit 127' if image_ready else "  install_all"
    )
    blanks = {
        "CONFIG": config.to_json(),
        "PACKAGES": packed,
        "PYTHON": python,
        "PYTHON_MINOR": ".".join(python.split(".")[:2]),
        "REGION": shlex.quote(config.region),
        "FIND_LINKS": find_links or "",
        "BOOT_TIMEOUT": str(int(config.boot_timeout)),
        "INSTALL": (note if left_out else "") + install,
    }
    start, _, end = _template("user_data.sh").partition(_CONTAINER)
    if container is not None:
        blanks.update(_container(container, config))
        end = _template("container.sh")
    # One pass: what is filled in is not looked at again.
    return re.sub(r"@([A-Z_]+)@", lambda m: blanks.get(m[1], m[0]), start + end)


def _template(name: str) -> str:
    return resources.files("prefect_coiled.plan").joinpath(name).read_text(encoding="utf-8")


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
        "DISTRIBUTION": DISTRIBUTION,
    }
