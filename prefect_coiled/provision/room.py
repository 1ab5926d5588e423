"""What an AWS account leaves room for, before anything is launched. Reads only."""

from __future__ import annotations

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
        free_plan: The only types that the AWS account may launch, if it is on AWS's free plan.
    """

    worker_type: str
    spot: bool
    workers: int | None = None
    quota: QuotaUse | None = None
    unknown: str = ""
    free_plan: tuple[str, ...] = ()

    @property
    def suffices(self) -> bool:
        """Whether nothing that is known stands in the way of a cluster of one worker."""
        return self.workers != 0 and (not self.free_plan or self.worker_type in self.free_plan)

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
            told.append(
                f"Room for a scheduler and {self.workers} workers, {self.worker_type} {market}: {self.quota}"
            )
        elif self.unknown:
            told.append(f"For how many workers there is room cannot be told: {self.unknown}")
        return told


def find_room(aws: Aws, worker_type: str, scheduler_type: str, *, spot: bool) -> Room:
    """For how many workers the AWS account's quotas leave room now.

    Args:
        scheduler_type: The scheduler's, which is never a spot machine.
    """
    plan = quotas.free_plan_types(aws) if quotas.on_free_plan(aws) else ()
    found = Room(worker_type=worker_type, spot=spot, free_plan=plan)
    quota, size = machine_quota(worker_type, spot=spot), vcpus(worker_type)
    if quota is None or size is None:
        return found.model_copy(update={"unknown": f"no quota is known for {worker_type}."})
    try:
        use = quotas.find_use(aws, quota)
    except CredentialsError:
        raise
    except AwsError as error:  # nothing depends on it
        return found.model_copy(update={"unknown": sentences(error.diagnosis.why, error.diagnosis.next_step)})
    if use.limit is None:
        return found.model_copy(update={"unknown": f"AWS does not say what {quota} is; {use.console}"})
    shared = machine_quota(scheduler_type, spot=False) == quota
    beside = (vcpus(scheduler_type) or 0) if shared else 0
    return found.model_copy(update={"quota": use, "workers": room(use.limit, use.used or 0, size, beside)})
