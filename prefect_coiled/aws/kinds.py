"""The table of all kinds of resources that this library makes, and what is done with any of them.

A kind is told once, in the row of its own module. A new one is a row more, here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from prefect_coiled.aws import (
    baked_images,
    boundary,
    bucket,
    ecr,
    iam_role,
    instances,
    intents,
    internet_gateway,
    launch_templates,
    logs,
    nat_gateways,
    parameters,
    route_tables,
    s3_endpoint,
    security_groups,
    spot_role,
    subnets,
    vpc,
)
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.ownership import foreign, is_ours
from prefect_coiled.aws.waits import AWS_FAILS, CONSISTENCY, DEPENDENTS_GONE, persistently, wait_for
from prefect_coiled.errors import (
    AlreadyExistsError,
    AwsError,
    CredentialsError,
    InUseError,
    NotFoundError,
    UnavailableError,
    WaitTimeoutError,
)
from prefect_coiled.internals.python import side_by_side
from prefect_coiled.plan.changes import Change, choose
from prefect_coiled.plan.kinds import ALL, Item, Kind, Scope, There, Wanted

KINDS: dict[str, Kind] = {
    "default route": route_tables.DEFAULT_ROUTE,
    "vpc": vpc.VPC,
    "subnet": subnets.SUBNET,
    "internet gateway": internet_gateway.INTERNET_GATEWAY,
    "elastic address": nat_gateways.ELASTIC_ADDRESS,
    "nat gateway": nat_gateways.NAT_GATEWAY,
    "route table": route_tables.ROUTE_TABLE,
    "s3 endpoint": s3_endpoint.S3_ENDPOINT,
    "boundary": boundary.BOUNDARY,
    "role": iam_role.ROLE,
    "instance profile": iam_role.INSTANCE_PROFILE,
    "spot role": spot_role.SPOT_ROLE,
    "log group": logs.LOG_GROUP,
    "bucket": bucket.BUCKET,
    "repository": ecr.REPOSITORY,
    "image": baked_images.IMAGE,
    "snapshot": baked_images.SNAPSHOT,
    "instance": instances.INSTANCE,
    "volume": instances.VOLUME,
    "launch template": launch_templates.LAUNCH_TEMPLATE,
    "security group": security_groups.SECURITY_GROUP,
    "parameter": parameters.PARAMETER,
    "intent": intents.INTENT_OF_CLUSTER,
}

# Without these it is not known what runs, and which clusters there are.
_NEEDED = {"instance", "intent"}

# What there is is shared by the steps of a set-up, which run side by side.
_LOCK = threading.Lock()


def find(aws: Aws, kind: Kind, scope: Scope = ALL, *, ours: bool = False) -> list[Item]:
    """What there is of a kind, and is ours.

    Args:
        scope: Which clusters; all that the account has by default.
        ours: Whether all has to be ours that is found by its name.

    Raises:
        ProvisionError: If something is not that has to be.
    """
    found = []
    for item in kind.find(aws, scope):
        if not scope.holds(kind.cluster_of(item)):
            continue
        if kind.owner is None or is_ours(aws, kind.labels(item), kind.owner(item)):
            found.append(item)
        elif ours:
            raise foreign(f"{kind.name} ({kind.id_of(item)})")
    return found


def find_all(aws: Aws, keys: Iterable[str] | None = None, scope: Scope = ALL, *, ours: bool = False) -> There:
    """What there is of several kinds, or of all, looked for side by side; see `find`."""
    wanted = list(KINDS if keys is None else keys)
    found = side_by_side(lambda key: find(aws, KINDS[key], scope, ours=ours), wanted)
    return dict(zip(wanted, found, strict=True))


def find_what_shows(
    aws: Aws, keys: Iterable[str] | None = None, scope: Scope = ALL, patience: float = AWS_FAILS
) -> tuple[There, dict[str, AwsError]]:
    """The same for a way down: what AWS does not show of lesser things keeps no machine running.

    Args:
        keys: The rows; all by default.
        patience: Seconds for each row in which AWS may fail.

    Returns:
        What there is, and of which rows AWS does not say it, and why.

    Raises:
        AwsError: If AWS shows neither machines nor names.
    """
    unseen: dict[str, AwsError] = {}

    def listed(key: str) -> list[Item]:
        what = f"looking for {KINDS[key].name} ({scope.cluster or aws.account})"
        try:
            return persistently(aws, what, lambda: find(aws, KINDS[key], scope), patience)
        except AwsError as error:
            if key in _NEEDED or isinstance(error, CredentialsError):
                raise
            unseen[key] = error
            return []

    wanted = list(KINDS if keys is None else keys)
    return dict(zip(wanted, side_by_side(listed, wanted), strict=True)), unseen


def bring(aws: Aws, change: Change, want: Wanted, there: There) -> None:
    """Make or repair what a change says. It is looked at before: an earlier attempt may have done it."""
    kind, place = KINDS[change.row], change.place
    item = choose(kind, place, find(aws, kind, ours=True), want, there)
    if item is None:
        assert kind.create is not None
        try:
            item = kind.create(aws, place, want, there)
        except AlreadyExistsError:  # made by another set-up at this moment
            item = choose(kind, place, find(aws, kind, ours=True), want, there)
            if item is None:
                raise
    if kind.lacks(item, want, there):
        assert kind.update is not None
        item = kind.update(aws, item, want, there)
    with _LOCK:
        others = [one for one in there[change.row] if kind.id_of(one) != kind.id_of(item)]
        there[change.row] = [*others, item]


def drop(aws: Aws, kind: Kind, items: list[Item], patience: float) -> None:
    """Delete items of a kind; those that are not there are fine. Waits until nothing uses them any more.

    Args:
        items: At most as many as go at once.
        patience: Seconds to wait for what uses them.

    Raises:
        AwsError: If one is still in use then, or AWS fails.
    """
    assert kind.delete is not None
    delete, named = kind.delete, ", ".join(kind.id_of(item) for item in items)
    what = f"waiting for what uses {kind.name} ({named}) to go"
    try:
        persistently(aws, what, lambda: delete(aws, items), min(patience, DEPENDENTS_GONE))
    except (InUseError, UnavailableError) as error:
        error.retried = "never"  # it was waited for
        raise
    except NotFoundError:
        _drop_listed(aws, kind, items, min(patience, CONSISTENCY))


def _drop_listed(aws: Aws, kind: Kind, items: list[Item], patience: float) -> None:
    """Delete what AWS lists, though it did not find it: it may be young.

    Raises:
        NotFoundError: If it is listed, and not found, for so long that neither is stale.
    """
    ids = {kind.id_of(item) for item in items}
    last: list[NotFoundError] = []

    def gone() -> bool | None:
        listed = [item for item in find(aws, kind) if kind.id_of(item) in ids]
        if listed and kind.delete is not None:
            try:
                kind.delete(aws, listed)
            except NotFoundError as error:
                last[:] = [error]
                return None
        return True

    try:
        wait_for(aws, f"waiting for AWS to know {kind.name} ({', '.join(ids)})", gone, timeout=patience)
    except WaitTimeoutError as late:
        if not last:  # it is another wait's, such as for a lease
            raise
        last[0].retried = "never"  # it was waited for
        raise last[0] from late


def of_changes(kind: Kind, items: Iterable[Item], changes: Iterable[Change]) -> list[Item]:
    """The items of a kind that changes are about."""
    ids = {change.resource_id for change in changes}
    return [item for item in items if f"{kind.prefix}{kind.id_of(item)}" in ids]


def of_clusters() -> tuple[str, ...]:
    """The keys of the rows of what belongs to clusters."""
    return tuple(key for key, kind in KINDS.items() if kind.of_clusters)
