"""Sweep: remove what should no longer exist in an account and region: clusters, then what they shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS, of_changes
from prefect_coiled.aws.known import changing
from prefect_coiled.aws.waits import TERMINATED
from prefect_coiled.errors import AwsError, CredentialsError, PrefectCoiledError
from prefect_coiled.plan.changes import Change, Plan
from prefect_coiled.plan.kinds import Cluster, There
from prefect_coiled.plan.prices import priced
from prefect_coiled.provision.cluster_removal import remove_with
from prefect_coiled.provision.planning import sweep_of
from prefect_coiled.provision.removal import leaving, remove
from prefect_coiled.provision.sessions import session_for
from prefect_coiled.provision.standing import look
from prefect_coiled.records import Removal
from prefect_coiled.tasks import changes as steps
from prefect_coiled.tasks.changes import as_steps, plainly
from prefect_coiled.tasks.steps import Session


@flow(name="sweep", flow_run_name="sweep {account} in {region}", persist_result=False)
def sweep(account: str, region: str, release_nat: bool = True, plan: Plan | None = None) -> Removal:
    """Remove what should no longer exist in an account and region.

    That is: clusters without a live scheduler, with all that belongs to them; internet gateways and
    addresses that nothing uses; and while no cluster runs NAT gateways, because they cost money idle, and
    images but for the newest three of each Python. `plan_sweep` says beforehand what.

    Args:
        account: The account's slug.
        region: The AWS region.
        release_nat: Whether idle NAT gateways go; the next cluster makes a new one.
        plan: What `plan_sweep` said: what came since then is left, and said. All goes by default.

    Returns:
        What was removed, and what could not be removed yet.

    Raises:
        AwsError: If AWS kept a machine, or did not show all that there is; the rest was swept, and `left`
            says what could not be.
    """
    with session_for(account, region) as session:
        aws = session.aws
        there, unseen = steps.look_around(aws)
        now = sweep_of(aws, there, release_nat)
        wanted = now.agreed(plan) if plan is not None else now
        total, errors, _ = sweep_clusters(session, wanted)
        if any(not change.cluster for change in wanted.todo):
            # A launch that begins meanwhile waits for the lease, and then makes what it needs again.
            begun = False

            def known(why: str) -> dict[str, str]:
                return {**total.left, **(said(wanted).left if begun else undone(wanted, why))}

            with leaving(known), changing(aws):
                there, unseen = steps.look_around(aws)
                # One that began before it has its name, and keeps what it uses.
                wanted = wanted.within(sweep_of(aws, there, release_nat))
                begun = True
                total += remove_shared(aws, wanted, there, unseen)[0]
        if errors := [*errors, *unseen.values()]:
            errors[0].left = (total + said(wanted) + not_shown(unseen, errors[0])).left
            raise errors[0]
        total += said(wanted)
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
            error.left = {**undone(plan, why), **total.left, **_not_begun(plan, others, why), **error.left}
            raise
        except AwsError as error:
            errors.append(error)
            left = error.left or _not_begun(plan, [Cluster(name, uid)], error.diagnosis.why)
            total += Removal(left=dict(left))
            continue
        session.aws.tell("sweep_cluster", f"removed {swept}", cluster=name, uid=uid, removal=swept)
        total += swept
        failed += refused
    return total, errors, failed


def _not_begun(plan: Plan, clusters: Sequence[Cluster], why: str) -> dict[str, str]:
    """What a plan would have removed of clusters that nothing was removed of."""
    doomed = [c for c in plan.todo if Cluster(c.cluster, c.uid) in clusters]
    return {c.resource_id: priced(why, c.usd_per_hour) for c in doomed}


@task(name="sweep cluster", task_run_name="sweep cluster {name}", cache_policy=NO_CACHE, persist_result=False)
def _sweep_cluster(aws: Aws, name: str, uid: str) -> tuple[Removal, list[PrefectCoiledError]]:
    if (name, uid) not in look(aws, name).dead:
        return Removal(), []
    return remove_with(aws, name, (uid,), (), TERMINATED, plainly)


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
