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
from functools import partial

from prefect import flow

from prefect_coiled import events
from prefect_coiled.aws import instances
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.zones import check_zone_there
from prefect_coiled.errors import (
    AwsError,
    InvalidRequestError,
    NotFoundError,
    PrefectCoiledError,
    ProvisionError,
)
from prefect_coiled.events import Watch
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.known import Known
from prefect_coiled.plan.network import blocked_words
from prefect_coiled.provision.cluster_removal import remove_cluster
from prefect_coiled.provision.launching import StaleError, launch_cluster, record_of, vpc_and_zones
from prefect_coiled.provision.sessions import session_for
from prefect_coiled.provision.set_up import set_up_account
from prefect_coiled.records import (
    AccountRecord,
    ClusterRecord,
    InstanceRecord,
    OwnNetwork,
    Removal,
)
from prefect_coiled.subscribers.story import storied
from prefect_coiled.tasks import cluster as steps
from prefect_coiled.tasks import known as knowing
from prefect_coiled.tasks import names
from prefect_coiled.tasks.environment import prepare
from prefect_coiled.tasks.launch import launch
from prefect_coiled.tasks.machine_data import check_sizes, prices_of
from prefect_coiled.tasks.steps import Session, tagged

logger = logging.getLogger(__name__)


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
            if session.prices is None:
                session.prices = prices_of(session.aws, spec)
            check_sizes(spec, session.prices)
            own = steps.check_own_network(session.aws, spec)
            known = knowing.begin(session, spec)
            if known is None and own is None and not spec.other_zones:
                check_zone_there(session.aws, spec.zone)
            steps.check_disk_key(session, spec)
            if session.locked is None and spec.installs:
                session.locked = prepare(spec)
            names.take_name(session.aws, spec)
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
            return launch_cluster(session, spec, known.account, own, known)
        except (StaleError, NotFoundError, InvalidRequestError) as error:
            if len(session.launched) > before:
                raise
            events.step("network", f"looked at again: {error.diagnosis.why}")
            knowing.look_anew(session, spec)
            steps.check_disk_key(session, spec)
    account = account_of(session, spec)
    _check_zone(spec, account)
    return launch_cluster(session, spec, account, own)


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
            "for this AWS account, AWS makes no new subnets in it",
            f"Choose one of: {there}.",
        )
    # Machines would run, and reach nothing: AWS refuses no launch for it.
    if mode := next((s.blocked for s in network.subnets if s.blocked and s.tier == "public"), ""):
        raise ProvisionError(
            f"starting in VPC {network.vpc_id}", *blocked_words(mode, network.vpc_id, spec.region)
        )


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
        # Who may reach it was perhaps changed, by another program: that stays.
        spec = names.as_changed(aws, spec)
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
    spec = names.read_plan(aws, name)
    if spec is None:
        return None
    running = instances.find_instances(aws, name, uid=spec.uid, states=instances.RUNS)
    scheduler = next((i for i in running if i.role == "scheduler"), None)
    if scheduler is None:
        return None
    return spec, record_of(spec, scheduler, [i for i in running if i.role == "worker"], aws.account)
