"""Remove a cluster: its machines first, then what they leave.

`remove_cluster` makes plain AWS calls, so that it works when the Prefect API does not. The flow
`delete_cluster` is the same as tasks that the UI shows. What cannot go yet (a security group whose machine
is still shutting down) is left with a reason, costs nothing, and goes with the next sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from prefect import flow

from prefect_coiled.aws import instances, parameters
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS, find, find_what_shows
from prefect_coiled.aws.price_list import seen_prices
from prefect_coiled.aws.waits import AWS_FAILS, TERMINATED, persistently
from prefect_coiled.errors import AwsError, CredentialsError, PrefectCoiledError
from prefect_coiled.events import Watch
from prefect_coiled.plan.kinds import Item, Scope, There
from prefect_coiled.plan.prices import Prices, priced
from prefect_coiled.provision.removal import leaving, remove
from prefect_coiled.provision.sessions import session_for
from prefect_coiled.provision.standing import removable, uids_of
from prefect_coiled.records import Removal
from prefect_coiled.tasks.changes import Run, as_steps, plainly
from prefect_coiled.tasks.steps import step


def terminate(
    aws: Aws, name: str, uid: str, ids: tuple[str, ...] = (), over: set[str] | None = None
) -> list[str]:
    """Ask AWS to end all machines of a cluster: those found by tag and those known by id.

    Args:
        over: Gets those that had ended before, by somebody else's `stop` for example.

    Raises:
        AwsError: If AWS keeps one; all such are `left`, with their prices.
    """
    # Also those that are shutting down, so that the caller waits for them.
    kind, what = KINDS["instance"], f"terminating cluster ({name})"
    try:
        found = persistently(aws, what, lambda: find(aws, kind, Scope(name, uid)))
    except AwsError:
        if ids:  # those that are known end all the same
            persistently(aws, what, lambda: instances.terminate_instances(aws, ids))
        raise
    everything = list(dict.fromkeys((*ids, *map(kind.id_of, found))))
    if everything:
        try:
            persistently(aws, what, lambda: instances.terminate_instances(aws, everything, over))
        except AwsError as error:
            kept = dict(error.left) or dict.fromkeys(everything, error.diagnosis.why)
            prices = seen_prices(aws)
            costs = {kind.id_of(item): kind.usd(item, prices) for item in found}
            error.left = {one: priced(why, costs.get(one)) for one, why in kept.items()}
            raise
    return everything


def remove_cluster(
    aws: Aws, name: str, uid: str | None = None, *, ids: tuple[str, ...] = (), patience: float = TERMINATED
) -> Removal:
    """Remove a cluster with plain calls, machines first. A repeat finds nothing and is fine.

    Args:
        uid: Only this cluster of that name; None for those that there are now.
        ids: Machines known by id, in case lists are stale.
        patience: Seconds to wait for the machines to be gone.
    """
    return remove_with(aws, name, _meant(aws, name, uid, ids), ids, patience, plainly)[0]


def told(aws: Aws, name: str, uids: Sequence[str], removal: Removal, watch: Watch) -> None:
    """Tell that clusters were removed; whose it was, if it was one."""
    uid = uids[0] if len(uids) == 1 else ""
    text = f"removed {removal}"
    aws.tell("delete_cluster", text, seconds=watch.seconds, cluster=name, uid=uid, removal=removal)


def remove_with(
    aws: Aws, name: str, uids: Iterable[str], ids: tuple[str, ...], patience: float, run: Run
) -> tuple[Removal, list[PrefectCoiledError]]:
    """All clusters that are meant: first every machine, then the rest of each; and what of the rest failed.

    One of which AWS keeps a machine keeps no other.
    """
    end, rest = (_terminate, _find_rest) if run is as_steps else (_terminate.fn, _find_rest.fn)
    ended: dict[str, list[str]] = {}
    total, errors, failed = Removal(), list[AwsError](), list[PrefectCoiledError]()
    unknown = list(uids)  # of which it is not known what is left

    def known(why: str) -> dict[str, str]:
        rest_of = {name: priced(f"what else of it is left is not known: {why}", None)} if unknown else {}
        return {**rest_of, **total.left}

    with leaving(known):
        for n, one in enumerate(tuple(unknown)):
            try:
                # Machines that are known by id are ended with the first, whosever they are.
                ended[one] = end(aws, name, one, ids if n == 0 else ())
            except CredentialsError:
                raise
            except AwsError as error:
                errors.append(error)
                unknown.remove(one)
                total += Removal(left=dict(error.left) or {name: priced(error.diagnosis.why, None)})
        for one, machines in ended.items():
            removal, refused = _remove_rest(aws, name, one, machines, rest, patience, run)
            unknown.remove(one)
            failed += refused
            total += removal
    if errors:
        errors[0].left = total.left
        raise errors[0]
    return total, failed


def _remove_rest(
    aws: Aws,
    name: str,
    uid: str,
    machines: Sequence[str],
    rest: Callable[[Aws, str, str, float], tuple[There, dict[str, AwsError]]],
    patience: float,
    run: Run,
) -> tuple[Removal, list[PrefectCoiledError]]:
    """What is left of a cluster whose machines were asked to end: those are waited for, and the rest goes.

    Its scheduler may have launched a worker at the last moment, which would keep the groups: once the
    templates are gone by which it does, machines are looked for again.
    """
    there, unseen = rest(aws, name, uid, patience)
    stays = {row: error.diagnosis.why for row, error in unseen.items()}
    there["instance"] = [_ending(machine) for machine in machines]
    templates, late = {"launch template": there.pop("launch template", [])}, Removal()
    with leaving(partial(_kept, there, seen_prices(aws))):
        first, refused = remove(aws, templates, run, patience)
        if first.left:
            stays["launch template"] = next(iter(first.left.values()))
        try:
            meanwhile = _launched_meanwhile(aws, name, uid, machines)
        except CredentialsError:
            raise
        except AwsError as error:  # a group that can be removed has no machine
            why = f"whether a machine was launched meanwhile is not known: {error.diagnosis.why}"
            meanwhile, late = [], Removal(left={name: priced(why, None)})
    there["instance"] += [_ending(machine) for machine in meanwhile]
    removal, more = remove(aws, there, run, patience, asked=("instance",), stays=stays)
    refused += more
    if uid and not removal.left:
        written, more = _written_meanwhile(aws, name, uid, run, patience)
        removal, refused = removal + written, [*refused, *more]
    removal += first + late
    # That the name stays with what is left is no news.
    intent = parameters.intent_of(aws.account, name)
    left = {key: why for key, why in removal.left.items() if key != intent or len(removal.left) == 1}
    return removal.model_copy(update={"left": left}), refused


def _ending(machine: str) -> Item:
    """A machine that was asked to end, as AWS describes it."""
    return {"InstanceId": machine, "State": {"Name": "shutting-down"}}


def _kept(there: There, prices: Prices, why: str) -> dict[str, str]:
    """All that there is, as what is left; but for machines, which were asked to end."""
    kinds = {row: KINDS[row] for row in there if row != "instance"}
    return {
        f"{kinds[row].prefix}{kinds[row].id_of(item)}": priced(why, kinds[row].usd(item, prices))
        for row in kinds
        for item in there[row]
    }


def _launched_meanwhile(aws: Aws, name: str, uid: str, known: Iterable[str]) -> list[str]:
    """Machines of a cluster that were launched while it was removed; they are asked to end.

    Raises:
        AwsError: If AWS keeps one, or does not show what there is.
    """
    if not uid:
        return []  # of no cluster in particular
    what = f"looking for machines that were launched while cluster ({name}) was removed"
    found = persistently(aws, what, lambda: instances.find_instances(aws, name, uid=uid))
    late = sorted({machine.instance_id for machine in found} - set(known))
    if late:
        persistently(aws, what, lambda: instances.terminate_instances(aws, late))
    return late


def _written_meanwhile(
    aws: Aws, name: str, uid: str, run: Run, patience: float
) -> tuple[Removal, list[PrefectCoiledError]]:
    """Remove what somebody has written of a cluster while it was removed, such as who may reach it.

    Whoever writes it looks whether the cluster has its name, which went last.
    """
    kind, of = KINDS["parameter"], Scope(name, uid)
    try:
        found = persistently(aws, f"looking for {kind.name} ({name})", lambda: find(aws, kind, of))
    except CredentialsError:
        raise
    except AwsError as error:  # a sweep finds it
        return Removal(), [error]
    return remove(aws, {"parameter": found}, run, patience) if found else (Removal(), [])


def _meant(aws: Aws, name: str, uid: str | Iterable[str] | None, ids: tuple[str, ...]) -> tuple[str, ...]:
    """The uids of the clusters that are meant."""
    if uid is None:
        return uids_of(aws, name) or (("",) if ids else ())
    return (uid,) if isinstance(uid, str) else tuple(uid)


@step("terminate instances", "terminate instances of {name}")
def _terminate(aws: Aws, name: str, uid: str, ids: tuple[str, ...]) -> list[str]:
    return terminate(aws, name, uid, ids)


@step("find the rest", "find the rest of {name}")
def _find_rest(aws: Aws, name: str, uid: str, patience: float) -> tuple[There, dict[str, AwsError]]:
    """What there is of a cluster, and why not of some rows: one that cannot be seen keeps no other."""
    rows = (row for row in removable() if row != "instance")
    return find_what_shows(aws, rows, Scope(name, uid), min(patience, AWS_FAILS))


@flow(name="remove cluster", flow_run_name="remove {name}", persist_result=False)
def delete_cluster(
    account: str,
    region: str,
    name: str,
    uid: str | tuple[str, ...] | None = None,
    ids: tuple[str, ...] = (),
    patience: float = TERMINATED,
) -> Removal:
    """Terminate a cluster's machines and remove what belongs to it.

    Args:
        account: The account's slug.
        region: The AWS region.
        name: The cluster's name.
        uid: Only this cluster of that name, or these; None for those that there are when the flow begins.
        ids: Machines known by id, in case lists are stale.
        patience: Seconds to wait for the machines to be gone.

    Returns:
        What was removed, and what is left for `sweep`.
    """
    with session_for(account, region, name) as session:
        aws = session.aws.without_stop()
        watch = Watch()
        uids = _meant(aws, name, uid, tuple(ids))
        removal, _ = remove_with(aws, name, uids, tuple(ids), patience, as_steps)
        told(aws, name, uids, removal, watch)
        return removal
