"""Create a cluster: everything that costs nothing first and side by side, then the machines together.

    own network fit? disk key usable? ─▶ claim name ─▶ set up account, or what is known of it
         ─┬▶ security groups ──┐
          ├▶ images ───────────┤
          ├▶ wheels ───────────┼▶ scheduler ─┬▶ all workers ─▶ templates to replace them
          ├▶ TLS keys ─────────┤             ├▶ template to add some
          └▶ is it still so? ──┘             └▶ its address

The workers are told the scheduler's private address, which the reply of its launch already holds, so they
boot in parallel with it. What a first launch saw of the account is kept (`aws.known`): a later one begins
with that, and has it confirmed before it launches. While the machines boot, the rest is made: the firewall's
rules, clients' keys, and the launch templates by which workers are added and replaced (`plan.kept`). Whatever
fails, everything that was made is removed before the error is raised. The name is claimed before anything
else: from then on, a sweep takes the cluster for one that is starting, and leaves it the NAT gateway.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture

from prefect_coiled import events
from prefect_coiled.aws import instances
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import (
    AwsError,
    InvalidRequestError,
    NotFoundError,
    PrefectCoiledError,
    ProvisionError,
)
from prefect_coiled.events import Watch
from prefect_coiled.events.story import resource_rows
from prefect_coiled.plan import cluster as planning
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.kept import MOST_WAYS, Way, ways
from prefect_coiled.plan.known import Known
from prefect_coiled.plan.machine_policies import bucket_name
from prefect_coiled.plan.network import blocked_words
from prefect_coiled.provision.cluster_removal import remove_cluster
from prefect_coiled.provision.sessions import session_for
from prefect_coiled.provision.set_up import set_up_account
from prefect_coiled.records import (
    AccountRecord,
    ClusterRecord,
    InstanceRecord,
    Network,
    OwnNetwork,
    Removal,
    Role,
)
from prefect_coiled.subscribers.story import storied
from prefect_coiled.tasks import cluster as steps
from prefect_coiled.tasks import known as knowing
from prefect_coiled.tasks.environment import deliver, prepare
from prefect_coiled.tasks.images import choose_image
from prefect_coiled.tasks.kept import ensure_kept_templates
from prefect_coiled.tasks.launch import launch
from prefect_coiled.tasks.steps import Session, settle, tagged

logger = logging.getLogger(__name__)

# Seconds for which a cluster is sure to have the name that it was seen to have.
_SURE = 5.0
# Seconds between two looks whether a stop is asked for.
_LOOK = 0.2


@flow(name="provision cluster", flow_run_name="provision {spec.name}", persist_result=False)
def create_cluster(spec: ClusterSpec) -> ClusterRecord:
    """Launch a cluster; set its account up first where that is needed.

    The machines are started, not yet joined: that is for the one who connects.

    Args:
        spec: All that the cluster shall be.

    Returns:
        What was launched.

    Raises:
        PrefectCoiledError: With the first cause; nothing is left running.
    """
    with session_for(spec.account, spec.region, spec.name) as session, storied(spec, session.aws.in_sandbox):
        tell = partial(session.aws.tell, cluster=spec.name, uid=spec.uid)
        tell("provisioning")
        removal: Removal | None = None
        try:
            steps.check_sizes(spec)
            own = steps.check_own_network(session.aws, spec)
            known = knowing.begin(session, spec)
            steps.check_disk_key(session, spec)
            if session.locked is None and spec.installs:
                session.locked = prepare(spec)
            steps.claim_name(session.aws, spec)
            watch = Watch()
            try:
                record, resources = _bring_up(session, spec, known, own)
            except BaseException as error:
                # Also on Ctrl-C and cancellation: the machines are asked to end before anything else.
                removal = give_back(session, spec)
                if known is not None and isinstance(error, (AwsError, ProvisionError)):
                    knowing.forget(session.aws.without_stop())
                raise
            text = f"launched {spec.name} with {len(record.workers)} workers"
            tell("create_cluster", text, seconds=watch.seconds, record=record, resources=resources)
            return record
        except BaseException as error:
            tell("failed", error=error, removal=removal)
            raise


def _bring_up(
    session: Session, spec: ClusterSpec, known: Known | None, own: OwnNetwork | None
) -> tuple[ClusterRecord, tuple[dict[str, str], ...]]:
    """Launch by what is known; where that turns out not to be so any more, look, and launch by that."""
    before = len(session.launched)
    if known is not None:
        try:
            return _launch(session, spec, known.account, own, known)
        except (_StaleError, NotFoundError, InvalidRequestError) as error:
            if len(session.launched) > before:
                raise
            events.step("network", f"looked at again: {error.diagnosis.why}")
            knowing.look_anew(session, spec)
            steps.check_disk_key(session, spec)
    account = account_of(session, spec)
    _check_zone(spec, account)
    return _launch(session, spec, account, own)


class _StaleError(ProvisionError):
    """What is known of an account does not hold any more."""

    def __init__(self, spec: ClusterSpec) -> None:
        what = f"launching cluster {spec.name!r} by what is known of account {spec.account}"
        super().__init__(what, "somebody has changed it, or is about to", "Run it again.")


def give_back(session: Session, spec: ClusterSpec) -> Removal | None:
    """Remove what was made of a cluster. Whoever asked is told the first cause, not what happens here.

    Returns:
        What was removed; None if that failed, and is left for the sweep.
    """
    aws = session.aws.without_stop()
    try:
        removal = remove_cluster(aws, spec.name, spec.uid, ids=tuple(session.launched), patience=20.0)
    except PrefectCoiledError as error:
        tell_left(spec, Removal(left=dict(error.left) or {spec.name: str(error)}))
        return None
    session.launched.clear()
    if removal.left:
        tell_left(spec, removal)
    return removal


def tell_left(spec: ClusterSpec, removal: Removal) -> None:
    """Say in the log what of a cluster is left."""
    logger.error(
        "Cluster %s could not be removed whole; `prefect-coiled sweep` will: %s",
        spec.name,
        "; ".join(f"{name}: {why}" for name, why in removal.left.items()),
    )


def account_of(session: Session, spec: ClusterSpec) -> AccountRecord:
    """What the cluster shares with others; of the account's network, only the parts that it needs."""
    own = spec.network is not None
    with tagged(session):
        return set_up_account(
            spec.account,
            spec.region,
            spec.zone,
            spec.egress,
            every_zone=False,
            network=not own,
            registry=spec.registry,
        )


def _check_zone(spec: ClusterSpec, account: AccountRecord) -> None:
    network = account.network
    if network is None:
        return
    if not spec.other_zones and network.subnet(spec.zone, "public") is None:
        there = ", ".join(sorted({s.zone for s in network.subnets}))
        raise ProvisionError(
            f"starting in zone {spec.zone}",
            f"AWS shows this AWS account no such zone in {spec.region}, or makes no new subnets in it",
            f"Choose one of: {there}.",
        )
    # Machines would run, and reach nothing: AWS refuses no launch for it.
    if mode := next((s.blocked for s in network.subnets if s.blocked and s.tier == "public"), ""):
        raise ProvisionError(
            f"starting in VPC {network.vpc_id}", *blocked_words(mode, network.vpc_id, spec.region)
        )


def vpc_and_zones(
    spec: ClusterSpec, account: AccountRecord, own: OwnNetwork | None
) -> tuple[str, dict[Role, tuple[str, ...]]]:
    """The network of a cluster, and the zones in which each role may start."""
    if spec.network is not None and own is not None:
        return spec.network.network_id, {"scheduler": (own.scheduler_zone,), "worker": (own.worker_zone,)}
    assert account.network is not None
    zones = tuple(sorted({s.zone for s in account.network.subnets}))
    return account.network.vpc_id, {"scheduler": zones, "worker": zones}


def _launch(
    session: Session,
    spec: ClusterSpec,
    account: AccountRecord,
    own: OwnNetwork | None,
    known: Known | None = None,
) -> tuple[ClusterRecord, tuple[dict[str, str], ...]]:
    """Launch the machines; gives the cluster, and what it consists of.

    Args:
        known: By what `account` is known, where nobody has looked at it for this launch.

    Raises:
        _StaleError: That does not hold any more; nothing was launched.
    """
    aws = session.aws
    network = account.network
    vpc_id, zones = vpc_and_zones(spec, account, own)
    groups_future = steps.ensure_security_groups.submit(aws, spec, vpc_id)
    confirmed = knowing.confirm.submit(session, spec, known) if known is not None else None
    since = Watch()
    # With a GPU, the workers have an image of their own.
    roles: tuple[Role, ...] = ("scheduler", "worker") if spec.gpu else ("scheduler",)
    files = bucket_name(aws.account, account.aws_account_id, aws.region)
    image_futures = [choose_image.submit(session, spec, role, files) for role in roles]
    keys_future = steps.make_keys.submit(session, spec)
    wheels_future = deliver.submit(session, account.aws_account_id) if spec.installs else None
    events.step("image", "looking")
    optional = [future for future in (confirmed, wheels_future) if future is not None]
    settle([groups_future, *image_futures, keys_future, *optional])
    groups = groups_future.result()
    found = [future.result() for future in image_futures]
    (image, _), (worker_image, _) = found[0], found[-1]
    events.step("image", "; ".join(f"{i.image_id}, {note}" if note else i.image_id for i, note in found))
    place = None
    if wheels_future is not None:
        delivery = wheels_future.result()
        place = delivery.place
        events.step("environment", str(delivery))
    if confirmed is not None and not confirmed.result():
        raise _StaleError(spec)

    # What no machine waits for is made while they boot. Whatever fails, nothing is made any more when the
    # cluster is removed.
    failed = threading.Event()
    door = aws.beside(stop=failed)
    beside: list[PrefectFuture[Any]] = [steps.open_security_groups.submit(door, spec, groups)]
    try:
        events.step("instances", "launching")
        if confirmed is None or since.seconds > _SURE:
            steps.check_held(aws, spec)
        possible = _ways(spec, network, zones["worker"], own.worker_zone if own else None)
        data = steps.launch_data(
            spec, "scheduler", image, account.account, environment=place, ways=min(len(possible), MOST_WAYS)
        )
        dedicated = own is not None and own.dedicated
        (scheduler,) = launch(
            session,
            spec,
            "scheduler",
            zones["scheduler"],
            network,
            count=1,
            first_zone=own.scheduler_zone if own else None,
            dedicated=dedicated,
            least=1,
            by=data,
            group_ids=groups.of("scheduler"),
        )
        if not scheduler.private_ip:  # where it was found in a list, and not by a reply
            scheduler = steps.wait_for_address(aws, scheduler, False)
        address = steps.wait_for_address.submit(door, scheduler, spec.use_public_ip)
        host = scheduler.private_ip
        data = steps.launch_data(spec, "worker", worker_image, account.account, host, place)
        template = steps.ensure_launch_template.submit(aws, spec, "worker", data, host)
        beside += [address, template]
        if known is None or known.images != session.images:
            beside.append(knowing.note.submit(session, spec, account))
        workers: list[InstanceRecord] = []
        if spec.worker_machines:
            workers = launch(
                session,
                spec,
                "worker",
                zones["worker"],
                network,
                count=spec.worker_machines,
                least=max(spec.min_workers - spec.works, 0),
                by=data,
                group_ids=groups.of("worker"),
                first_zone=own.worker_zone if own else scheduler.zone,
                dedicated=dedicated,
            )
        possible = _ways(spec, network, zones["worker"], own.worker_zone if own else scheduler.zone)
        # Last: SSM takes three writes a second of an AWS account.
        beside.append(steps.keep_client_keys.submit(session, spec))
        kept = ensure_kept_templates.submit(
            aws, spec, ways(possible, workers), scheduler, data, group_ids=groups.of("worker")
        )
        ids = [i.instance_id for i in (scheduler, *workers)]
        events.step("instances", f"{len(ids)} launched")
        # Each machine makes its own: AWS takes 50 an account and second, and machines come up one by one.
        events.step("log streams", f"{len(ids)} in {account.log_group}, each made by its machine")
        kept.wait()
        _await(beside, aws.stop, failed)
    except BaseException:
        failed.set()
        _await(beside, aws.stop, failed)
        raise
    settle(beside)
    scheduler = address.result()
    try:
        settle([kept])
    except AwsError as error:  # all else of the cluster is as it should be
        events.step("keeper", f"workers that are lost are not replaced: {error}")
    rows = resource_rows(
        spec,
        account,
        image_ids={"scheduler": image.image_id, "worker": worker_image.image_id},
        groups={"scheduler": groups.of("scheduler"), "worker": groups.of("worker")},
        templates={"worker": template.result()},
        machines=(scheduler, *workers),
    )
    return _record(spec, scheduler, workers, account.log_group), tuple(rows)


def _await(futures: list[PrefectFuture[Any]], stop: threading.Event, failed: threading.Event) -> None:
    """Wait until they have ended. What waits for something ends when a stop is asked for."""
    for future in futures:
        over = _over(future)
        while not over.wait(_LOOK):
            if stop.is_set():
                failed.set()
        future.wait()


def _over(future: PrefectFuture[Any]) -> threading.Event:
    """Is set once it has ended. To ask for its state is a call to Prefect's API."""
    over = threading.Event()
    future.add_done_callback(lambda _: over.set())
    return over


def _ways(
    spec: ClusterSpec, network: Network | None, zones: tuple[str, ...], first_zone: str | None
) -> list[Way]:
    """All ways to get workers, in order."""
    attempts = planning.launch_attempts(spec, "worker", zones, first_zone)
    places = [(attempt, planning.placement(spec, network, "worker", attempt.zone)) for attempt in attempts]
    return [(attempt, place) for attempt, place in places if place is not None]


@flow(name="add workers", flow_run_name="add {count} workers to {spec.name}", persist_result=False)
def add_workers(spec: ClusterSpec, record: ClusterRecord, count: int, batch: str) -> list[InstanceRecord]:
    """Launch more workers for a cluster that runs.

    Args:
        spec: The cluster as it was planned.
        record: The cluster as it was launched.
        count: How many more.
        batch: Fixed before the call: a repeat with the same one launches nothing twice.

    Returns:
        The new machines; fewer than `count` where AWS has no capacity.

    Raises:
        PrefectCoiledError: If not one could be launched.
    """
    with session_for(spec.account, spec.region, spec.name) as session:
        aws = session.aws
        steps.check_held(aws, spec)
        own = steps.check_own_network(aws, spec)
        known = knowing.look_anew(session, spec) if own is None else None
        account = known.account if known and known.serves(spec) else account_of(session, spec)
        vpc_id, zones = vpc_and_zones(spec, account, own)
        groups = steps.find_security_groups(aws, spec, vpc_id)
        steps.open_security_groups(aws, spec, groups)
        template = steps.find_launch_template(aws, spec, "worker")
        made = launch(
            session,
            spec,
            "worker",
            zones["worker"],
            account.network,
            count=count,
            least=1,
            by=template,
            group_ids=groups.of("worker"),
            first_zone=own.worker_zone if own else record.scheduler.zone,
            dedicated=own is not None and own.dedicated,
            batch=batch,
        )
        aws.tell("scale", f"added {len(made)} workers to {spec.name}", cluster=spec.name, uid=spec.uid)
        return made


def find_cluster(aws: Aws, name: str) -> tuple[ClusterSpec, ClusterRecord] | None:
    """The cluster that has the name, if it is alive: its plan and what runs of it. Reads only."""
    spec = steps.read_plan(aws, name)
    if spec is None:
        return None
    running = instances.find_instances(aws, name, uid=spec.uid, states=("pending", "running"))
    scheduler = next((i for i in running if i.role == "scheduler"), None)
    if scheduler is None:
        return None
    return spec, _record(spec, scheduler, [i for i in running if i.role == "worker"], aws.account)


def _record(
    spec: ClusterSpec, scheduler: InstanceRecord, workers: list[InstanceRecord], log_group: str
) -> ClusterRecord:
    return ClusterRecord(
        name=spec.name,
        uid=spec.uid,
        account=spec.account,
        region=spec.region,
        zone=scheduler.zone,
        created_at=spec.created_at,
        creator=spec.creator,
        scheduler=scheduler,
        workers=tuple(workers),
        scheduler_port=spec.scheduler_node.one_port or spec.scheduler_node.scheduler_port,
        dashboard_port=spec.scheduler_node.one_port or spec.scheduler_node.dashboard_port,
        use_public_ip=spec.use_public_ip,
        log_group=log_group,
    )
