"""SSM parameters: a cluster's keys as SecureStrings, leases on names, and AWS's public ones."""

from __future__ import annotations

from datetime import datetime
from email.utils import parsedate_to_datetime

from prefect_coiled.aws.batches import PARAMETERS, batches
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AlreadyExistsError, NotFoundError, OptionsError
from prefect_coiled.plan import tags

# https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-advanced-parameters.html
_STANDARD, _ADVANCED = 4096, 8192

# Seconds after its intent in which a cluster may still be coming up: no sweep touches it.
STARTING = 1800.0


def account_path(account: str) -> str:
    """Where an account keeps its parameters."""
    return f"/prefect-coiled/{account}/"


def set_up_lease(account: str) -> str:
    """The lease that is held by whoever makes or removes what an account's clusters share."""
    return f"{account_path(account)}set-up"


def cluster_path(account: str, cluster: str) -> str:
    """Where a cluster keeps its parameters."""
    return f"{account_path(account)}{cluster}/"


def read_parameter(aws: Aws, name: str) -> str | None:
    """The value of a parameter, decrypted; None if it is not there."""
    try:
        reply = aws.call("ssm:GetParameter", f"reading parameter ({name})", Name=name, WithDecryption=True)
    except NotFoundError:
        return None
    return str(reply["Parameter"]["Value"])


def put_secret(aws: Aws, name: str, value: str, labels: dict[str, str]) -> None:
    """Write a SecureString. One that is there already was written by an earlier attempt and is replaced.

    Raises:
        OptionsError: If it is larger than SSM allows: 8,192 bytes.
    """
    tier = _tier(
        value,
        "environ and the Dask configuration sent to the machines",
        "Give less in `environ`, or use send_dask_config=False.",
    )
    what = f"writing parameter ({name})"
    try:
        aws.call(
            "ssm:PutParameter",
            what,
            Name=name,
            Value=value,
            Type="SecureString",
            Tier=tier,
            Tags=tags.to_aws(tags.plain(labels)),
        )
    except AlreadyExistsError:
        aws.call(
            "ssm:PutParameter", what, Name=name, Value=value, Type="SecureString", Tier=tier, Overwrite=True
        )


def _tier(value: str, what: str, next_step: str) -> str:
    """The tier that a value needs.

    Raises:
        OptionsError: If it fits into none.
    """
    size = len(value.encode())
    if size > _ADVANCED:
        raise OptionsError(what, f"they take {size} bytes, and SSM holds at most {_ADVANCED}", next_step)
    return "Standard" if size <= _STANDARD else "Advanced"


def claim(aws: Aws, name: str, value: str, labels: dict[str, str]) -> bool:
    """Write a parameter only if its name is free; AWS keeps names unique. Returns whether it is ours now.

    Raises:
        OptionsError: If the value is larger than SSM allows: 8,192 bytes.
    """
    tier = _tier(value, "the options of the cluster", "Give fewer tags, ingress rules or Dask options.")
    try:
        aws.call(
            "ssm:PutParameter",
            f"claiming ({name})",
            Name=name,
            Value=value,
            Type="String",
            Tier=tier,
            Tags=tags.to_aws(tags.plain(labels)),
        )
    except AlreadyExistsError:
        return False
    return True


def find_parameters(aws: Aws, path: str) -> list[str]:
    """The names below a path."""
    items = aws.pages(
        "ssm:GetParametersByPath", f"listing parameters ({path})", "Parameters", Path=path, Recursive=True
    )
    return sorted(str(item["Name"]) for item in items)


def delete_parameters(aws: Aws, names: list[str]) -> None:
    """Delete parameters; those that are not there are fine."""
    for chunk in batches(names, PARAMETERS):
        aws.call("ssm:DeleteParameters", f"deleting parameters ({chunk[0]} ...)", Names=chunk)


def read_with_age(aws: Aws, name: str) -> tuple[str, float] | None:
    """The value of a parameter and the seconds since it was written, both times by AWS's own clock."""
    try:
        reply = aws.call("ssm:GetParameter", f"reading parameter ({name})", Name=name)
    except NotFoundError:
        return None
    now = parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"])
    written: datetime = reply["Parameter"]["LastModifiedDate"]
    return str(reply["Parameter"]["Value"]), (now - written).total_seconds()


def renew(aws: Aws, name: str, value: str) -> None:
    """Write a parameter again, which makes it young."""
    aws.call(
        "ssm:PutParameter",
        f"renewing ({name})",
        Name=name,
        Value=value,
        Type="String",
        # What was advanced cannot become standard again, and stays what it is with this one.
        Tier="Intelligent-Tiering",
        Overwrite=True,
    )
