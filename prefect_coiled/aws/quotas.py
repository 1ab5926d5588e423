"""What AWS allows this account: its quotas with what is used of them, and whether it is on the free plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AwsError, CredentialsError, NotFoundError
from prefect_coiled.plan import quotas
from prefect_coiled.plan.quotas import Quota
from prefect_coiled.records import Record

T = TypeVar("T")

# https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/free-tier-plans.html
FREE_PLAN_TYPES = ("m7i-flex.large", "c7i-flex.large", "t3.small", "t3.micro", "t4g.small", "t4g.micro")


class QuotaUse(Record):
    """A quota, and what is used of it.

    Attributes:
        console: Where it is shown, and more can be asked for.
        limit: None where AWS does not say, or may not be asked.
        used: What counts against it now; None where that cannot be counted.
        unit: What is counted: "vCPUs" of machines, or empty for things.
        unknown: Why not all of it is known, if AWS gave an error.
    """

    code: str
    name: str
    console: str
    limit: float | None
    used: int | None
    unit: str = "vCPUs"
    unknown: str = ""

    def __str__(self) -> str:
        limit = "an unknown number of" if self.limit is None else f"{self.limit:.15g}"
        return f"{self.name} ({self.code}): {limit} {self.unit}, {self.used} used; {self.console}"


def find_limit(aws: Aws, quota: Quota) -> float | None:
    """The value of a quota; None if AWS does not know it here.

    Raises:
        AccessDeniedError: If the caller may not ask; the ongoing policy lets it.
    """
    try:
        reply = aws.call(
            "servicequotas:GetServiceQuota",
            f"reading quota {quota.code}",
            ServiceCode=quota.service,
            QuotaCode=quota.code,
        )
    except NotFoundError:
        return None
    return float(reply["Quota"]["Value"])


def find_running(aws: Aws) -> list[tuple[str, bool, int]]:
    """All machines of the AWS account in this region that count against quotas: type, spot, vCPUs."""
    pages = aws.pages(
        "ec2:DescribeInstances",
        "counting the machines of the AWS account",
        "Reservations",
        Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}],
        MaxResults=1000,
    )
    found = []
    for one in (one for page in pages for one in page["Instances"]):
        cpu = one.get("CpuOptions") or {}
        size = int(cpu.get("CoreCount") or 1) * int(cpu.get("ThreadsPerCore") or 1)
        found.append((str(one["InstanceType"]), one.get("InstanceLifecycle") == "spot", size))
    return found


def find_use(aws: Aws, quota: Quota) -> QuotaUse:
    """A quota of machines and what is used of it.

    Raises:
        AccessDeniedError: As `find_limit` does.
    """
    return _use(aws, quota, quotas.used_vcpus(find_running(aws), quota), find_limit(aws, quota))


# What counts against a quota of things: the call that lists them, and what of its answer.
_COUNTED = {
    "VpcLimitExceeded": ("ec2:DescribeVpcs", "Vpcs"),
    "AddressLimitExceeded": ("ec2:DescribeAddresses", "Addresses"),
    "InternetGatewayLimitExceeded": ("ec2:DescribeInternetGateways", "InternetGateways"),
    "SecurityGroupLimitExceeded": ("ec2:DescribeSecurityGroups", "SecurityGroups"),
}


def find_uses(aws: Aws) -> list[QuotaUse]:
    """The quotas that set-up and clusters meet first, with what is used of each in the whole AWS account.

    Those of machines that nobody has, such as P and Trn, are given as well: such a type may be wanted. What
    AWS does not let be read is unknown, and keeps no other.

    Raises:
        CredentialsError: If AWS does not take the credentials.
    """
    running, of_running = _readable(lambda: find_running(aws))
    refused: list[str] = []  # once AWS does not answer, or not to us, it is not asked for another one

    def use(quota: Quota, used: int | None, why: str, unit: str = "vCPUs") -> QuotaUse:
        limit, of_limit = (None, refused[0]) if refused else _readable(lambda: find_limit(aws, quota))
        refused.extend([of_limit] if of_limit and not refused else [])
        unknown = " ".join(dict.fromkeys(reason for reason in (why, of_limit) if reason))
        return _use(aws, quota, used, limit, unit, unknown)

    found = [
        use(quota, None if running is None else quotas.used_vcpus(running, quota), of_running)
        for quota in quotas.of_machines()
    ]
    for code, (call, key) in _COUNTED.items():
        found.append(use(quotas.OF_CODES[code], *_readable(partial(_count, aws, code, call, key)), ""))
    return found


def _count(aws: Aws, code: str, call: str, key: str) -> int:
    # DescribeAddresses has no pages.
    what = "counting what the AWS account has"
    listed = aws.call(call, what)[key] if code == "AddressLimitExceeded" else aws.pages(call, what, key)
    return sum(1 for _ in listed)


def _readable(read: Callable[[], T]) -> tuple[T | None, str]:
    """What is read, and why it cannot be."""
    try:
        return read(), ""
    except CredentialsError:
        raise
    except AwsError as error:
        return None, str(error)


def _use(
    aws: Aws, quota: Quota, used: int | None, limit: float | None, unit: str = "vCPUs", unknown: str = ""
) -> QuotaUse:
    return QuotaUse(
        code=quota.code,
        name=quota.name,
        console=quota.console(aws.region),
        limit=limit,
        used=used,
        unit=unit,
        unknown=unknown,
    )


def tell_use(aws: Aws, quota: Quota) -> str:
    """A quota of machines in words, whatever of it AWS says."""
    try:
        return str(find_use(aws, quota))
    except AwsError:
        return f"{quota}; {quota.console(aws.region)}"


def on_free_plan(aws: Aws) -> bool | None:
    """Whether the AWS account is on the free plan; None if AWS does not say, or may not be asked.

    https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/free-tier-plans.html
    """
    try:
        reply = aws.call("freetier:GetAccountPlanState", "asking for the plan of the AWS account")
    except AwsError:
        return None
    return bool(reply.get("accountPlanType") == "FREE")


def free_plan_types(aws: Aws) -> tuple[str, ...]:
    """The machine types that an account on the free plan may launch, the largest first."""
    try:
        pages = aws.pages(
            "ec2:DescribeInstanceTypes",
            "listing the types of the free plan",
            "InstanceTypes",
            Filters=[{"Name": "free-tier-eligible", "Values": ["true"]}],
        )
        found = {str(one["InstanceType"]) for one in pages}
    except AwsError:
        found = set()
    return (*FREE_PLAN_TYPES, *sorted(found - set(FREE_PLAN_TYPES)))
