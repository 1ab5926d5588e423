"""SSM parameters: a cluster's keys as SecureStrings, leases on names, and AWS's public ones."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from prefect_coiled.aws.batches import PARAMETERS, batches
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.waits import persistently
from prefect_coiled.errors import AlreadyExistsError, NotFoundError, OptionsError
from prefect_coiled.plan import tags
from prefect_coiled.plan.kinds import Item, Kind, Scope

# https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-advanced-parameters.html
STANDARD_LIMIT, _ADVANCED = 4096, 8192

# What the parameter is called by which a cluster has its name.
INTENT = "intent"
# And the lease on that name of whoever removes it.
REMOVAL = "removal"

# Seconds after its intent in which a cluster may still be coming up: no sweep touches it.
STARTING = 1800.0
# The same of a bake, which has no scheduler by which it is seen to live: its packages are sent, installed
# (half an hour at most) and made an image (an hour at most) within that.
BAKING = 9000.0
# What the names of bakes begin with.
BAKE = "bake-"


def starting(cluster: str) -> float:
    """Seconds after its intent in which what has that name may still be coming up."""
    return BAKING if cluster.startswith(BAKE) else STARTING


def account_path(account: str) -> str:
    """Where an account keeps its parameters."""
    return f"/prefect-coiled/{account}/"


def set_up_lease(account: str) -> str:
    """The lease that is held by whoever makes or removes what an account's clusters share."""
    return f"{account_path(account)}set-up"


def known_of(account: str) -> str:
    """The parameter in which it is kept what is known of an account; see `aws.known`."""
    return f"{account_path(account)}known"


def cluster_path(account: str, cluster: str, uid: str = "") -> str:
    """Where clusters of a name keep their parameters; with a uid, where one of them does."""
    return f"{account_path(account)}{tags.one_cluster(cluster)}/{f'{uid}/' if uid else ''}"


def intent_of(account: str, cluster: str) -> str:
    """The parameter by which a cluster has its name: what it is planned to be. AWS keeps it unique."""
    return f"{cluster_path(account, cluster)}{INTENT}"


def removal_of(account: str, cluster: str) -> str:
    """The lease of whoever removes a cluster's name."""
    return f"{cluster_path(account, cluster)}{REMOVAL}"


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
    secret: dict[str, Any] = {"Name": name, "Value": value, "Type": "SecureString", "Tier": tier}
    try:
        _put(aws, what, Tags=tags.to_aws(tags.plain(labels)), **secret)
    except AlreadyExistsError:
        _put(aws, what, Overwrite=True, **secret)


def _put(aws: Aws, what: str, **parameter: Any) -> None:
    """Write a parameter, and again while AWS has too much to do: it takes three a second of an AWS account.

    https://docs.aws.amazon.com/general/latest/gr/ssm.html. Who makes one has to bear that an earlier try, of
    which AWS said nothing good, has made it.
    """
    persistently(aws, what, lambda: aws.call("ssm:PutParameter", what, **parameter))


def check_size(value: str) -> None:
    """See that a value fits into a plain parameter: 4,096 bytes.

    Raises:
        OptionsError: If it is larger than 4,096 bytes.
    """
    size = len(value.encode())
    if size > STANDARD_LIMIT:
        raise OptionsError(
            "the plan of the cluster",
            f"takes {size:,} bytes, and a parameter of SSM holds {STANDARD_LIMIT:,}",
            "Give fewer or shorter tags, worker_options or scheduler_options.",
        )


def _tier(value: str, what: str, next_step: str) -> str:
    """The tier that a value needs.

    Raises:
        OptionsError: If it fits into none.
    """
    size = len(value.encode())
    if size > _ADVANCED:
        raise OptionsError(what, f"they take {size} bytes, and SSM holds at most {_ADVANCED}", next_step)
    return "Standard" if size <= STANDARD_LIMIT else "Advanced"


def claim(aws: Aws, name: str, value: str, labels: dict[str, str]) -> bool:
    """Write a parameter only if its name is free; AWS keeps names unique. Returns whether it is ours now.

    It may be ours though this says no, where an answer was lost: its value tells.

    Raises:
        OptionsError: If the value is larger than AWS takes.
    """
    check_size(value)
    try:
        _put(
            aws,
            f"claiming ({name})",
            Name=name,
            Value=value,
            Type="String",
            Tags=tags.to_aws(tags.plain(labels)),
        )
    except AlreadyExistsError:
        return False
    return True


def write(aws: Aws, name: str, value: str, labels: dict[str, str]) -> None:
    """Write a parameter, whether it is there or not."""
    if not claim(aws, name, value, labels):
        renew(aws, name, value)


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


def age_in(reply: dict[str, Any], parameter: dict[str, Any]) -> float:
    """The seconds since a parameter of a reply was written, both times by AWS's own clock.

    A reply's own time has no fractions, and so may be before what it tells of.
    """
    now = parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"])
    written: datetime = parameter["LastModifiedDate"]
    return max((now - written).total_seconds(), 0.0)


def read_with_age(aws: Aws, name: str) -> tuple[str, float] | None:
    """The value of a parameter and the seconds since it was written, both times by AWS's own clock."""
    try:
        reply = aws.call("ssm:GetParameter", f"reading parameter ({name})", Name=name)
    except NotFoundError:
        return None
    return str(reply["Parameter"]["Value"]), age_in(reply, reply["Parameter"])


def read_version(aws: Aws, name: str, version: int) -> str | None:
    """The value that a parameter had in a version; None if AWS has it no more."""
    try:
        reply = aws.call("ssm:GetParameter", f"reading ({name}:{version})", Name=f"{name}:{version}")
    except NotFoundError:
        return None
    return str(reply["Parameter"]["Value"])


def renew(aws: Aws, name: str, value: str) -> int:
    """Write a parameter again, which makes it young. Returns the number that AWS gives what was written."""
    reply = aws.call(
        "ssm:PutParameter", f"renewing ({name})", Name=name, Value=value, Type="String", Overwrite=True
    )
    return int(reply["Version"])


def find_of_clusters(aws: Aws, scope: Scope) -> Iterator[tuple[Item, str]]:
    """The parameters below the account's path, each with its cluster, and what it is called there."""
    root = account_path(aws.account)
    path = root if scope.cluster is None else cluster_path(aws.account, scope.cluster)
    for name in find_parameters(aws, path):
        cluster, _, rest = name.removeprefix(root).partition("/")
        uid, below, _ = rest.partition("/")
        if name != set_up_lease(aws.account):
            yield {"Name": name, "Cluster": cluster if rest else "", "Uid": uid if below else ""}, rest


def _find(aws: Aws, scope: Scope) -> Iterator[Item]:
    listed = list(find_of_clusters(aws, scope))
    named = {item["Cluster"] for item, rest in listed if rest == INTENT}
    for item, rest in listed:
        # Who removes a name has the lease on it, or died with it: it goes with the name.
        lease = rest == REMOVAL and item["Cluster"] in named
        if rest != INTENT and not lease and scope.uid in (None, item["Uid"]):
            yield item


def labels_of(item: Item) -> dict[str, str]:
    """The cluster of a parameter, as its tags would say it."""
    return {tags.CLUSTER: item["Cluster"], tags.CLUSTER_UID: item["Uid"]}


def _delete(aws: Aws, items: list[Item]) -> None:
    delete_parameters(aws, [str(item["Name"]) for item in items])


PARAMETER = Kind(
    name="parameter",
    find=_find,
    id_of=lambda item: str(item["Name"]),
    labels=labels_of,
    of_clusters=True,
    waits_for=("intent",),
    delete=_delete,
    at_once=PARAMETERS,
)
