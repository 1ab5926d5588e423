"""Remove clusters: machines first, then what they leave; and sweep what should no longer exist.

`remove_cluster` makes plain AWS calls, so that it works when the Prefect API does not. The flow
`delete_cluster` is the same as tasks that the UI shows. What cannot go yet (a security group whose machine
is still shutting down) is left with a reason, costs nothing, and goes with the next sweep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from prefect_coiled.aws import instances, parameters
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS, find, find_what_shows, of_changes
from prefect_coiled.aws.known import changing
from prefect_coiled.aws.waits import AWS_FAILS, TERMINATED, persistently
from prefect_coiled.errors import AccessDeniedError, AwsError, CredentialsError, PrefectCoiledError
from prefect_coiled.events import Watch
from prefect_coiled.plan.changes import Change, Plan
from prefect_coiled.plan.kinds import Cluster, Item, Scope, There, order
from prefect_coiled.plan.prices import priced
from prefect_coiled.provision.planning import sweep_of
from prefect_coiled.provision.sessions import session_for
from prefect_coiled.provision.standing import look, removable, uids_of
from prefect_coiled.records import Removal
from prefect_coiled.tasks import changes as steps
from prefect_coiled.tasks.changes import Doomed, Run, as_steps, plainly
from prefect_coiled.tasks.steps import Session, step


def remove(
    aws: Aws,
    doomed: There,
    run: Run,
    patience: float = math.inf,
    asked: Iterable[str] = (),
    stays: Mapping[str, str] | None = None,
) -> tuple[Removal, list[PrefectCoiledError]]:
    """Remove items, each kind after those that wait for it; what fails is left, and keeps what it needs.

    Args:
        doomed: What goes, by the rows' keys.
        patience: Seconds to wait for what goes first.
        asked: Rows whose items were asked to go already.
        stays: Rows of which something stays, or may, and why.

    Returns:
        What was removed and what is left; and what failed.

    Raises:
        CredentialsError: If AWS takes the credentials no more; with all that is `left`.
    """
    removed: dict[str, tuple[str, ...]] = {}
    left: dict[str, str] = {}
    needed: list[str] = []
    errors: list[PrefectCoiledError] = []
    going: dict[str, Doomed] = {}
    # What goes with something else, such as a route, keeps nothing.
    blocked = {row: why for row, why in (stays or {}).items() if KINDS[row].delete is not None}

    def leave(row: str, items: Iterable[Item], why: str) -> None:
        blocked.setdefault(row, why)
        kind = KINDS[row]
        left.update({f"{kind.prefix}{kind.id_of(i)}": priced(why, kind.usd(i)) for i in items})

    def settle(rows: Iterable[str]) -> None:
        """Wait until what was deleted of the rows is gone."""
        for row in [row for row in rows if row in going]:
            waited = going.pop(row)
            (error,) = run(steps.wait_gone, [(aws, waited)])
            if error is None:
                continue
            kind, why = KINDS[row], f"{error.diagnosis.what}: {error.diagnosis.why}"
            errors.append(error)
            blocked.setdefault(row, why)
            if costly := _costly(aws, row, waited.items):
                leave(row, costly, why)
                there = {kind.id_of(item) for item in costly}
                removed[kind.name] = tuple(one for one in removed[kind.name] if one not in there)
            elif not any(doomed.get(other) for other in kind.waits_for):  # else what stays for it says so
                leave(row, waited.items, why)

    def go(row: str) -> None:
        kind, items = KINDS[row], doomed.get(row, [])
        if not items:
            return
        first = [other for other in KINDS if row in KINDS[other].waits_for]
        settle(first)
        why = next((blocked[other] for other in first if other in blocked), None)
        if why is not None:
            leave(row, items, why)
            return
        starts = range(0, len(items), kind.at_once)
        chunks = [Doomed(row, items[n : n + kind.at_once], patience) for n in starts]
        ends = [None] * len(chunks) if row in asked else run(steps.drop, [(aws, chunk) for chunk in chunks])
        gone: list[Item] = []
        for chunk, error in zip(chunks, ends, strict=True):
            if kind.administered and isinstance(error, AccessDeniedError):
                leave(row, chunk.items, error.diagnosis.why)
                needed.extend(f"{kind.prefix}{kind.id_of(item)}" for item in chunk.items)
                continue
            # Of several that go at once, the error may say which are left.
            kept = None if error is None else error.left or dict.fromkeys(map(kind.id_of, chunk.items), "")
            gone += [item for item in chunk.items if kind.id_of(item) not in (kept or {})]
            if error is not None and kept is not None:
                errors.append(error)
                leave(row, [i for i in chunk.items if kind.id_of(i) in kept], error.diagnosis.why)
        if gone:
            removed[kind.name] = (*removed.get(kind.name, ()), *(kind.id_of(item) for item in gone))
            if kind.gone is not None:
                going[row] = Doomed(row, gone, patience)

    rows = order(KINDS, down=True)
    try:
        for row in rows:
            go(row)
        settle(tuple(going))
    except CredentialsError as error:  # no call would be answered any more
        for row in rows:
            kind, why = KINDS[row], error.diagnosis.why
            # Names are one kind's: the log group, the role and the profile have the same.
            done = removed.get(kind.name, ())
            rest = [item for item in doomed.get(row, ()) if kind.id_of(item) not in done]
            leave(row, [item for item in rest if f"{kind.prefix}{kind.id_of(item)}" not in left], why)
        error.left = left
        raise
    return Removal(removed=removed, left=left, needed=tuple(needed)), errors


@contextmanager
def leaving(known: Callable[[str], Mapping[str, str]]) -> Iterator[None]:
    """With an error that ends a removal half-way, such as of credentials that expired, what is left is told.

    Args:
        known: Gives what else is left, for the reason why.
    """
    try:
        yield
    except PrefectCoiledError as error:
        error.left = {**known(error.diagnosis.why), **error.left}
        raise


def _costly(aws: Aws, row: str, items: Iterable[Item]) -> list[Item]:
    """Those of the items that AWS shows, and that still cost: it took their deletion, and did not do it."""
    kind = KINDS[row]
    ids = {kind.id_of(item) for item in items}
    try:
        return [item for item in find(aws, kind) if kind.id_of(item) in ids and kind.usd(item) != 0.0]
    except AwsError:
        return []


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
            costs = {kind.id_of(item): kind.usd(item) for item in found}
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
    return _remove(aws, name, _meant(aws, name, uid, ids), ids, patience, plainly)[0]


def told(aws: Aws, name: str, uids: Sequence[str], removal: Removal, watch: Watch) -> None:
    """Tell that clusters were removed; whose it was, if it was one."""
    uid = uids[0] if len(uids) == 1 else ""
    text = f"removed {removal}"
    aws.tell("delete_cluster", text, seconds=watch.seconds, cluster=name, uid=uid, removal=removal)


def _remove(
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
                total += Removal(left=dict(error.left))
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
    there["instance"] = [{"InstanceId": machine} for machine in machines]
    templates, late = {"launch template": there.pop("launch template", [])}, Removal()
    with leaving(partial(_kept, there)):
        first, refused = remove(aws, templates, run, patience)
        stays |= {row: why for row in templates for why in list(first.left.values())[:1]}
        try:
            meanwhile = _launched_meanwhile(aws, name, uid, machines)
        except CredentialsError:
            raise
        except AwsError as error:  # a group that can be removed has no machine
            why = f"whether a machine was launched meanwhile is not known: {error.diagnosis.why}"
            meanwhile, late = [], Removal(left={name: priced(why, None)})
    there["instance"] += [{"InstanceId": machine} for machine in meanwhile]
    removal, more = remove(aws, there, run, patience, asked=("instance",), stays=stays)
    removal, refused = first + removal + late, [*refused, *more]
    # That the name stays with what is left is no news.
    intent = parameters.intent_of(aws.account, name)
    left = {key: why for key, why in removal.left.items() if key != intent or len(removal.left) == 1}
    return removal.model_copy(update={"left": left}), refused


def _kept(there: There, why: str) -> dict[str, str]:
    """All that there is, as what is left; but for machines, which were asked to end."""
    kinds = {row: KINDS[row] for row in there if row != "instance"}
    return {
        f"{kinds[row].prefix}{kinds[row].id_of(item)}": priced(why, kinds[row].usd(item))
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
        removal, _ = _remove(aws, name, uids, tuple(ids), patience, as_steps)
        told(aws, name, uids, removal, watch)
        return removal


@flow(name="sweep", flow_run_name="sweep {account} in {region}", persist_result=False)
def sweep(account: str, region: str, release_nat: bool = True) -> Removal:
    """Remove what should no longer exist in an account and region.

    That is: clusters without a live scheduler, with all that belongs to them; internet gateways and
    addresses that nothing uses; and while no cluster runs NAT gateways, because they cost money idle, and
    images but for the newest three of each Python. `plan_sweep` says beforehand what.

    Args:
        account: The account's slug.
        region: The AWS region.
        release_nat: Whether idle NAT gateways go; the next cluster makes a new one.

    Returns:
        What was removed, and what could not be removed yet.

    Raises:
        AwsError: If AWS kept a machine, or did not show all that there is; the rest was swept, and `left`
            says what could not be.
    """
    with session_for(account, region) as session:
        aws = session.aws
        there, unseen = steps.look_around(aws)
        plan = sweep_of(aws, there, release_nat)
        total, errors, _ = sweep_clusters(session, plan)
        if any(not change.cluster for change in plan.todo):
            # A launch that begins meanwhile waits for the lease, and then makes what it needs again.
            begun = False

            def known(why: str) -> dict[str, str]:
                return {**total.left, **(said(plan).left if begun else undone(plan, why))}

            with leaving(known), changing(aws):
                there, unseen = steps.look_around(aws)
                # One that began before it has its name, and keeps what it uses.
                plan = plan.within(sweep_of(aws, there, release_nat))
                begun = True
                total += remove_shared(aws, plan, there, unseen)[0]
        if errors := [*errors, *unseen.values()]:
            errors[0].left = (total + said(plan) + not_shown(unseen, errors[0])).left
            raise errors[0]
        total += said(plan)
        aws.tell("sweep", f"removed {total}", removal=total)
        return total


def said(plan: Plan) -> Removal:
    """What a plan leaves, as a removal."""
    return Removal(
        left={change.resource_id: priced(change.why, change.usd_per_hour) for change in plan.left},
        needed=tuple(change.resource_id for change in plan.left if change.needed),
    )


def undone(plan: Plan, why: str) -> dict[str, str]:
    """What a plan would have removed of what belongs to no cluster, and what it leaves."""
    shared = {c.resource_id: priced(why, c.usd_per_hour) for c in plan.todo if not c.cluster}
    return {**said(plan).left, **shared}


def not_shown(unseen: Mapping[str, AwsError], raised: PrefectCoiledError | None) -> Removal:
    """What AWS does not show, as a removal: how much of it there is, and what it costs, is not known.

    Args:
        raised: The error that will be raised: its cause is told with it.
    """
    rows = {KINDS[row].name: e for row, e in unseen.items() if KINDS[row].delete is not None}
    whys = {name: "AWS does not show it" if e is raised else e.diagnosis.why for name, e in rows.items()}
    return Removal(left={name: priced(why, None) for name, why in whys.items()})


def sweep_clusters(session: Session, plan: Plan) -> tuple[Removal, list[AwsError], list[PrefectCoiledError]]:
    """Remove the clusters of a plan, each if it is still as dead as it was when all were looked at.

    Returns:
        What was removed and what is left; why AWS keeps machines: one cluster that cannot go keeps no other;
        and what failed of the rest.
    """
    total, errors, failed = Removal(), list[AwsError](), list[PrefectCoiledError]()
    clusters = sorted({Cluster(c.cluster, c.uid) for c in plan.todo if c.cluster})
    for n, (name, uid) in enumerate(clusters):
        try:
            swept, refused = _sweep_cluster(session.aws, name, uid)
        except CredentialsError as error:
            why, others = error.diagnosis.why, clusters[n + 1 :] if error.left else clusters[n:]
            of_others = {c.resource_id: c for c in plan.todo if Cluster(c.cluster, c.uid) in others}
            rest = {one: priced(why, c.usd_per_hour) for one, c in of_others.items()}
            error.left = {**undone(plan, why), **total.left, **rest, **error.left}
            raise
        except AwsError as error:
            errors.append(error)
            total += Removal(left=dict(error.left))
            continue
        session.aws.tell("sweep_cluster", f"removed {swept}", cluster=name, uid=uid, removal=swept)
        total += swept
        failed += refused
    return total, errors, failed


@task(name="sweep cluster", task_run_name="sweep cluster {name}", cache_policy=NO_CACHE, persist_result=False)
def _sweep_cluster(aws: Aws, name: str, uid: str) -> tuple[Removal, list[PrefectCoiledError]]:
    if (name, uid) not in look(aws, name).dead:
        return Removal(), []
    return _remove(aws, name, (uid,), (), TERMINATED, plainly)


def remove_shared(
    aws: Aws, plan: Plan, there: There, unseen: Mapping[str, AwsError], left: Mapping[str, str] | None = None
) -> tuple[Removal, list[PrefectCoiledError]]:
    """Remove what of a plan belongs to no cluster; see `remove`.

    Args:
        unseen: Why AWS does not show some rows.
        left: What is left of clusters, and why: it keeps what it uses.
    """
    stays = {row: error.diagnosis.why for row, error in unseen.items()}
    stays |= {c.row: left[c.resource_id] for c in plan.todo if left and c.resource_id in left}
    listed: dict[str, list[Change]] = {}
    for change in plan.todo:
        if not change.cluster:
            listed.setdefault(change.row, []).append(change)
    doomed = {row: of_changes(KINDS[row], there[row], changes) for row, changes in listed.items()}
    return remove(aws, doomed, as_steps, stays=stays)
