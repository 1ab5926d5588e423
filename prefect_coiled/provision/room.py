"""What an AWS account leaves room for, before anything is launched. Reads only."""

from __future__ import annotations

from typing import NamedTuple

from prefect_coiled.aws import quotas
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.quotas import QuotaUse
from prefect_coiled.errors import AwsError, CredentialsError, sentences
from prefect_coiled.plan.quotas import machine_quota, room, vcpus
from prefect_coiled.records import Record


class Room(Record):
    """How many workers of a type fit, beside their scheduler.

    Attributes:
        workers: How many; None where that cannot be told.
        quota: The quota that decides, with what is used of it.
        unknown: Why it cannot be told; empty where it can.
        schedulers: How many schedulers fit, where they count against another quota than the workers; those of
            spot workers do. None where they do not, or where it cannot be told.
        scheduler_quota: That quota.
        scheduler_unknown: Why it cannot be told.
        free_plan: The only types that the AWS account may launch, if it is on AWS's free plan.
    """

    worker_type: str
    scheduler_type: str
    spot: bool
    workers: int | None = None
    quota: QuotaUse | None = None
    unknown: str = ""
    schedulers: int | None = None
    scheduler_quota: QuotaUse | None = None
    scheduler_unknown: str = ""
    free_plan: tuple[str, ...] = ()

    @property
    def suffices(self) -> bool:
        """Whether nothing that is known stands in the way of a cluster of one worker."""
        may = not self.free_plan or {self.worker_type, self.scheduler_type} <= set(self.free_plan)
        return self.workers != 0 and self.schedulers != 0 and may

    def lines(self) -> list[str]:
        """What to tell a person."""
        market = "spot" if self.spot else "on demand"
        told = []
        if self.free_plan:
            told.append(
                f"The AWS account is on AWS's free plan, which launches {', '.join(self.free_plan)} only. "
                "Give one of them as worker_vm_types and scheduler_vm_types, or upgrade the plan."
            )
        if self.workers is not None:
            beside = "" if self.scheduler_quota or self.scheduler_unknown else "a scheduler and "
            told.append(f"Room for {beside}{self.workers} workers, {self.worker_type} {market}: {self.quota}")
        elif self.unknown:
            told.append(f"For how many workers there is room cannot be told: {self.unknown}")
        if self.schedulers is not None:
            some = "Room" if self.schedulers else "No room"
            told.append(f"{some} for a scheduler, {self.scheduler_type} on demand: {self.scheduler_quota}")
        elif self.scheduler_unknown and self.scheduler_unknown != self.unknown:
            told.append(f"Whether there is room for a scheduler cannot be told: {self.scheduler_unknown}")
        return told


def find_room(aws: Aws, worker_type: str, scheduler_type: str, *, spot: bool) -> Room:
    """For how many workers the AWS account's quotas leave room now, and whether for their scheduler.

    Args:
        scheduler_type: The scheduler's, which is never a spot machine.
    """
    plan = quotas.free_plan_types(aws) if quotas.on_free_plan(aws) else ()
    shared = machine_quota(scheduler_type, spot=False) == machine_quota(worker_type, spot=spot)
    beside = (vcpus(scheduler_type) or 0) if shared else 0
    workers = _count(aws, worker_type, spot=spot, beside=beside)
    schedulers = _Count() if shared else _count(aws, scheduler_type, spot=False)
    return Room(
        worker_type=worker_type,
        scheduler_type=scheduler_type,
        spot=spot,
        workers=workers.fit,
        quota=workers.quota,
        unknown=workers.unknown,
        schedulers=schedulers.fit,
        scheduler_quota=schedulers.quota,
        scheduler_unknown=schedulers.unknown,
        free_plan=plan,
    )


class _Count(NamedTuple):
    """How many machines of a type fit, under which quota, or why that cannot be told."""

    fit: int | None = None
    quota: QuotaUse | None = None
    unknown: str = ""


def _count(aws: Aws, instance_type: str, *, spot: bool, beside: int = 0) -> _Count:
    quota, size = machine_quota(instance_type, spot=spot), vcpus(instance_type)
    if quota is None or size is None:
        return _Count(unknown=f"no quota is known for {instance_type}.")
    try:
        use = quotas.find_use(aws, quota)
    except CredentialsError:
        raise
    except AwsError as error:  # nothing depends on it
        return _Count(unknown=sentences(error.diagnosis.why, error.diagnosis.next_step))
    if use.limit is None:
        return _Count(unknown=f"AWS does not say what {quota} is; {use.console}")
    return _Count(room(use.limit, use.used or 0, size, beside), use)
