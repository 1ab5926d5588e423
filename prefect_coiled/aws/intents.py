"""The parameter by which a cluster has its name: first to be made, and last to go.

As long as anything else of the cluster is there, the name is taken. SSM deletes a parameter whatever it says
by then: of two who remove what an ended cluster left, the slower would take the name from the cluster that
has it since. So whoever removes a name has a lease on it meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from prefect_coiled.aws import leases, parameters
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AccessDeniedError, ProvisionError
from prefect_coiled.plan.cluster import uid_of
from prefect_coiled.plan.kinds import Item, Kind, Scope


def _find(aws: Aws, scope: Scope) -> Iterator[Item]:
    """An intent's cluster is that of which it is the plan: it says so itself, and how old it is."""
    for item, rest in parameters.find_of_clusters(aws, scope):
        if rest != parameters.INTENT:
            continue
        found = parameters.read_with_age(aws, item["Name"])
        if found is None:
            continue
        uid = uid_of(found[0])
        if scope.uid in (None, uid):
            yield {**item, "Uid": uid, "Age": found[1]}


def _delete(aws: Aws, items: list[Item]) -> None:
    for item in items:
        while not _deleted(aws, item):
            pass


def _deleted(aws: Aws, item: Item) -> bool:
    """Delete one, by a lease; says whether that is done, and the lease was not lost on the way."""
    name, lease = str(item["Name"]), parameters.removal_of(aws.account, item["Cluster"])
    try:
        check = leases.take(aws, lease)
    except AccessDeniedError:
        # Whoever may remove, but write nothing, removes: what is left would cost, or bar the name.
        check = None
    found = parameters.read_parameter(aws, name)
    if found is not None and uid_of(found) == item["Uid"]:
        going = [name, lease]  # at once: a lease that is left alone would be one more thing to remove
    else:
        going = [lease] if check is not None else []
    door = aws.beside(aws.region, aws.stop)

    def fence() -> None:
        for one in (aws.fence, check):
            if one is not None:
                one()

    door.fence = fence
    try:
        parameters.delete_parameters(door, going)
    except ProvisionError:
        return False  # where the caller's own is lost, taking the lease anew says so
    return True


def give_back(aws: Aws, cluster: str, uid: str) -> None:
    """Free a cluster's name, if the cluster of that uid has it."""
    name = parameters.intent_of(aws.account, cluster)
    found = parameters.read_parameter(aws, name)
    if found is not None and uid_of(found) == uid:
        _delete(aws, [{"Name": name, "Cluster": cluster, "Uid": uid}])


def _young(item: Item) -> str:
    asked, left = item["Age"] / 60, (parameters.starting(item["Cluster"]) - item["Age"]) / 60
    return (
        f"asked for {asked:.0f} minutes ago, without a scheduler: it may be starting still; "
        f"a sweep takes it for dead in {math.ceil(left)} minutes"
    )


INTENT_OF_CLUSTER = Kind(
    name="parameter",
    find=_find,
    id_of=lambda item: str(item["Name"]),
    labels=parameters.labels_of,
    of_clusters=True,
    alive=lambda item: "starting" if item["Age"] < parameters.starting(item["Cluster"]) else "",
    young=_young,
    delete=_delete,
)
