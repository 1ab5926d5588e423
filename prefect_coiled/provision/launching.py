"""Launch the machines of a cluster in an account that is known, and what is made while they boot.

security groups, images, wheels, TLS keys, "is it still so?" ─▶ scheduler ─▶ all workers
└▶ rules, templates, its address, keys
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from prefect.futures import PrefectFuture

from prefect_coiled import events
from prefect_coiled.errors import AwsError, ProvisionError
from prefect_coiled.events import Watch
from prefect_coiled.events.story import resource_rows
from prefect_coiled.plan import cluster as planning
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.kept import MOST_WAYS, Way, ways
from prefect_coiled.plan.known import Known
from prefect_coiled.plan.machine_policies import bucket_name
from prefect_coiled.records import (
    AccountRecord,
    ClusterRecord,
    InstanceRecord,
    MachineImage,
    Network,
    OwnNetwork,
    Role,
)
from prefect_coiled.tasks import cluster as steps
from prefect_coiled.tasks import known as knowing
from prefect_coiled.tasks import names
from prefect_coiled.tasks.environment import deliver
from prefect_coiled.tasks.images import choose_image
from prefect_coiled.tasks.kept import ensure_kept_templates
from prefect_coiled.tasks.launch import launch
from prefect_coiled.tasks.machine_data import launch_data
from prefect_coiled.tasks.steps import Session, settle

__all__ = ["StaleError", "launch_cluster", "record_of", "vpc_and_zones"]

# Seconds for which a cluster is sure to have the name that it was seen to have.
_SURE = 5.0
# Seconds between two looks whether a stop is asked for.
_LOOK = 0.2


class StaleError(ProvisionError):
    """What is known of an account does not hold any more."""

    def __init__(self, spec: ClusterSpec) -> None:
        what = f"launching cluster {spec.name!r} by what is known of account {spec.account}"
        super().__init__(what, "somebody has changed it, or is about to", "Run it again.")


@dataclass(frozen=True)
class _Ready:
    """What a launch needs; all of it costs nothing.

    Attributes:
        zones: Those in which each role may start.
        place: Where the packages are; None where there is nothing to install.
        held: Since when the cluster is sure to have its name.
    """

    groups: Any
    zones: dict[Role, tuple[str, ...]]
    image: MachineImage
    worker_image: MachineImage
    place: Any
    held: Watch


@dataclass
class _Up:
    """What was launched, and what is made beside the boot.

    Attributes:
        beside: Steps that no machine waits for, and that have to succeed.
        kept: Makes the templates to replace workers by; the cluster runs without them too.
    """

    beside: list[PrefectFuture[Any]] = field(default_factory=list)
    workers: list[InstanceRecord] = field(default_factory=list)
    address: PrefectFuture[Any] | None = None
    template: PrefectFuture[Any] | None = None
    kept: PrefectFuture[Any] | None = None


def launch_cluster(
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
        StaleError: That does not hold any more; nothing was launched.
    """
    with names.kept_young(session.aws, spec):
        ready = _make_ready(session, spec, account, own, known)
    # What no machine waits for is made while they boot. Whatever fails, nothing is made any more when the
    # cluster is removed.
    failed = threading.Event()
    up = _Up()
    try:
        _launch_machines(session, spec, account, own, known, ready, up, session.aws.beside(stop=failed))
        _await(up.beside, session.aws.stop, failed)
    except BaseException:
        failed.set()
        _await([*up.beside, *filter(None, [up.kept])], session.aws.stop, failed)
        raise
    settle(up.beside)
    assert up.address is not None
    assert up.template is not None
    assert up.kept is not None
    try:
        settle([up.kept])
    except AwsError as error:  # all else of the cluster is as it should be
        events.step("keeper", f"workers that are lost are not replaced: {error}")
    scheduler = up.address.result()
    rows = resource_rows(
        spec,
        account,
        image_ids={"scheduler": ready.image.image_id, "worker": ready.worker_image.image_id},
        groups={"scheduler": ready.groups.of("scheduler"), "worker": ready.groups.of("worker")},
        templates={"worker": up.template.result()},
        machines=(scheduler, *up.workers),
    )
    return record_of(spec, scheduler, up.workers, account.log_group), tuple(rows)


def _make_ready(
    session: Session, spec: ClusterSpec, account: AccountRecord, own: OwnNetwork | None, known: Known | None
) -> _Ready:
    """Make and find what a launch needs, side by side."""
    vpc_id, zones = vpc_and_zones(spec, account, own)
    made: list[PrefectFuture[Any]] = []  # of the cluster, and to be removed with it
    try:
        made.append(groups := steps.ensure_security_groups.submit(session.aws, spec, vpc_id))
        confirmed = knowing.confirm.submit(session, spec, known) if known is not None else None
        held = Watch()
        # With a GPU, the workers have an image of their own.
        roles: tuple[Role, ...] = ("scheduler", "worker") if spec.gpu else ("scheduler",)
        files = bucket_name(session.aws.account, account.aws_account_id, session.aws.region)
        images = [choose_image.submit(session, spec, role, files) for role in roles]
        made.append(keys := steps.make_keys.submit(session, spec))
        wheels = deliver.submit(session, account.aws_account_id) if spec.installs else None
        events.step("image", "looking")
        settle([groups, *images, keys, *(future for future in (confirmed, wheels) if future is not None)])
    except BaseException:
        for future in made:  # an interrupt comes while they are at work
            future.wait()
        raise
    found = [future.result() for future in images]
    events.step("image", "; ".join(f"{i.image_id}, {note}" if note else i.image_id for i, note in found))
    place = None
    if wheels is not None:
        delivery = wheels.result()
        place = delivery.place
        events.step("environment", str(delivery))
    if confirmed is not None and not confirmed.result():
        raise StaleError(spec)
    return _Ready(groups.result(), zones, found[0][0], found[-1][0], place, held)


def _launch_machines(
    session: Session,
    spec: ClusterSpec,
    account: AccountRecord,
    own: OwnNetwork | None,
    known: Known | None,
    ready: _Ready,
    up: _Up,
    door: Any,
) -> None:
    """Launch the scheduler and the workers, and begin with what is made beside.

    Args:
        up: Gets each thing as soon as it is begun.
        door: Of what is made beside: it closes where the launch fails.
    """
    aws, network = session.aws, account.network
    dedicated = own is not None and own.dedicated
    of_workers = ready.groups.of("worker")
    up.beside.append(steps.open_security_groups.submit(door, spec, ready.groups))
    events.step("instances", "launching")
    if known is None or ready.held.seconds > _SURE:
        names.check_held(aws, spec)
    possible = _ways(spec, network, ready.zones["worker"], own.worker_zone if own else None)
    data = launch_data(
        spec,
        "scheduler",
        ready.image,
        account.account,
        environment=ready.place,
        ways=min(len(possible), MOST_WAYS),
        prices=session.prices,
    )
    (scheduler,) = launch(
        session,
        spec,
        "scheduler",
        ready.zones["scheduler"],
        network,
        count=1,
        first_zone=own.scheduler_zone if own else None,
        dedicated=dedicated,
        least=1,
        by=data,
        group_ids=ready.groups.of("scheduler"),
    )
    if not scheduler.private_ip:  # where it was found in a list, and not by a reply
        scheduler = steps.wait_for_address(aws, scheduler, False)
    up.address = steps.wait_for_address.submit(door, scheduler, spec.use_public_ip)
    up.beside.append(up.address)
    host = scheduler.private_ip
    data = launch_data(spec, "worker", ready.worker_image, account.account, host, ready.place)
    up.template = steps.ensure_launch_template.submit(door, spec, "worker", data, host)
    up.beside.append(up.template)
    if known is None or known.images != session.images:
        up.beside.append(knowing.note.submit(session, spec, account))
    worker_zone = own.worker_zone if own else scheduler.zone
    if spec.worker_machines:
        up.workers += launch(
            session,
            spec,
            "worker",
            ready.zones["worker"],
            network,
            count=spec.worker_machines,
            least=max(spec.min_workers - spec.works, 0),
            by=data,
            group_ids=of_workers,
            first_zone=worker_zone,
            dedicated=dedicated,
        )
    possible = _ways(spec, network, ready.zones["worker"], worker_zone)
    # Last: SSM takes three writes a second of an AWS account.
    up.beside.append(steps.keep_client_keys.submit(session, spec))
    up.kept = ensure_kept_templates.submit(
        door, spec, ways(possible, up.workers), scheduler, data, group_ids=of_workers
    )
    machines = 1 + len(up.workers)
    events.step("instances", f"{machines} launched")
    # Each machine makes its own: AWS takes 50 an account and second, and machines come up one by one.
    events.step("log streams", f"{machines} in {account.log_group}, each made by its machine")
    up.kept.wait()


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


def vpc_and_zones(
    spec: ClusterSpec, account: AccountRecord, own: OwnNetwork | None
) -> tuple[str, dict[Role, tuple[str, ...]]]:
    """The network of a cluster, and the zones in which each role may start."""
    if spec.network is not None and own is not None:
        return spec.network.network_id, {"scheduler": (own.scheduler_zone,), "worker": (own.worker_zone,)}
    assert account.network is not None
    zones = tuple(sorted({s.zone for s in account.network.subnets}))
    return account.network.vpc_id, {"scheduler": zones, "worker": zones}


def record_of(
    spec: ClusterSpec, scheduler: InstanceRecord, workers: list[InstanceRecord], log_group: str
) -> ClusterRecord:
    """What is told of a cluster that was launched."""
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
