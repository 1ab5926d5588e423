"""How a launch goes on when AWS says no: which ways are left, how many machines to ask for, what was tried.

Pure: the calls are in `tasks.launch`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prefect_coiled.errors import (
    AccessDeniedError,
    AccountStateError,
    AwsError,
    NoCapacityError,
    QuotaError,
    UnavailableError,
)
from prefect_coiled.plan.aws_codes import SLOW_DOWN, SPOT_ROLE_MISSING, SUBNET_FULL
from prefect_coiled.plan.cluster import Attempt
from prefect_coiled.plan.quotas import Quota, machine_quota, vcpus

# "For larger numbers of instances, request in smaller batches", such as of 100:
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html
LARGEST_CALL = 100


_RATE = (
    "AWS launches 1,000 machines of an AWS account and region at once, and two more a second: wait, or ask "
    "for fewer."
)
# Fewer are not asked for because launches come too fast: each call counts against a rate of its own.
_SMALLEST_CALL = 10


# What AWS says of a type that cannot be a dedicated instance:
# https://github.com/hashicorp/terraform/issues/18215
_UNSUPPORTED = ("Unsupported", "UnsupportedTenancy")
_TENANCY = (
    "The VPC has dedicated tenancy, and not every type can be a dedicated instance. Choose vm_types that "
    "can, such as m6i.xlarge, or a VPC of default tenancy."
)
_FULL = "End what holds the subnet's addresses, or name a larger subnet (`network` of the account)."
_UNSURE = "AWS did not say whether the last launch made any: `prefect-coiled ls` shows what runs."


def smaller_call(refused: int) -> int:
    """How many machines to ask for when AWS takes no more than so many a second, and refused more."""
    return min(refused, max(refused // 2, _SMALLEST_CALL))


def halves(refused: int, got: list[int]) -> Iterator[int]:
    """How many to ask for when a quota refused `refused` machines, until as many are there as fit.

    Args:
        got: How many each call gave; the caller appends to it, 0 for a refusal.
    """
    most = refused - 1
    while most > 0:
        size = (most + 1) // 2
        yield size
        most = most - size if got[-1] == size else size - 1 if got[-1] == 0 else 0


# What AWS says where the vCPUs of a family are used up.
_OF_MACHINES = ("InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "VcpuLimitExceeded")
# What AWS says of one type alone: that the free plan does not have it, and that the region does not.
_FREE_PLAN, _NO_SUCH_TYPE = "InvalidParameterCombination", "InvalidInstanceType"


def _no_such_type(error: AwsError, instance_type: str) -> bool:
    """Whether the region does not have a type; RunInstances says so with a code that others share."""
    if error.code == _NO_SUCH_TYPE:
        return True
    why = error.diagnosis.why
    return error.code == "InvalidParameterValue" and "InstanceType" in why and f"'{instance_type}'" in why


def fewer_may_fit(error: AwsError) -> bool:
    """Whether a call was refused as a whole, and one for fewer machines may not be.

    Quotas are so: https://repost.aws/knowledge-center/ec2-on-demand-instance-vcpu-increase. Of a subnet's
    addresses AWS says that they are too few for what was asked for, and no page says more.
    """
    return isinstance(error, QuotaError) or error.code == SUBNET_FULL


def type_denied(error: AwsError) -> bool:
    """Whether a policy above the account's own forbids machines like this one: others may be permitted.

    Organisations limit types and markets, by conditions on the machine:
    https://docs.aws.amazon.com/organizations/latest/userguide/orgs_manage_policies_scps_examples_ec2.html
    """
    return isinstance(error, AccessDeniedError) and bool(error.denied_by) and ":instance/" in error.resource


# Seconds for which a type that AWS did not have in a zone is asked for after all others.
MISSING_S = 180.0


class Missing:
    """What AWS did not have a moment ago, by the AWS account and region, type, zone and market.

    Capacity comes and goes by the minute: what was missing is not left out, but comes last. So a cluster that
    comes up after another one, or grows, does not ask its way through the same refusals.
    """

    def __init__(self) -> None:
        self._since: dict[tuple[str, Attempt], float] = {}

    def note(self, place: str, attempt: Attempt, now: float) -> None:
        """AWS had none, or fewer than were asked for."""
        self._since[place, attempt] = now

    def forget(self, place: str, attempt: Attempt) -> None:
        """AWS had as many as were asked for."""
        self._since.pop((place, attempt), None)

    def last(self, place: str, attempts: Iterable[Attempt], now: float) -> list[Attempt]:
        """The attempts in their order, but those of a market last that were missing.

        What is on demand stays behind what is spot: it comes where AWS has no spot machines at all.
        """

        def is_missing(one: Attempt) -> bool:
            return now - self._since.get((place, one), -MISSING_S - now) < MISSING_S

        return sorted(attempts, key=lambda one: (not one.spot, is_missing(one)))


class Tally:
    """What was tried of a launch, and what need not be asked for again.

    A quota is shared by many types in all zones of a region: once AWS has said that it is used up, only
    smaller types can still fit. A type that the AWS account may not launch is the same in every zone; spot
    machines without their role are so in every type. Where launches come too fast, or disks are used up, they
    are so everywhere.

    Args:
        dedicated: Whether the network makes dedicated instances of all machines.

    Attributes:
        last: The refusal that says most.
        quota: The one that is used up.
        unsure: Whether more may have come up than is known.
    """

    def __init__(self, *, dedicated: bool = False) -> None:
        self.last: AwsError | None = None
        self.quota: Quota | None = None
        self.unsure = False
        self._dedicated = dedicated
        self._unsupported = False
        self._tried: dict[Attempt, str] = {}
        self._said: dict[str, str] = {}
        self._spared: list[str] = []
        self._used_up: dict[Quota, int] = {}
        self._refused: set[str] = set()
        self._denied: set[tuple[str, bool]] = set()
        self._full: set[str] = set()
        self._no_spot = False
        self._over = False
        self._fell_back = False
        self._spot = False

    def passes(self, attempt: Attempt) -> bool:
        """Whether an attempt cannot succeed any more, by what AWS has said before."""
        quota = machine_quota(attempt.instance_type, spot=attempt.spot)
        left = self._used_up.get(quota) if quota is not None else None
        too_large = left is not None and (vcpus(attempt.instance_type) or left) >= left
        refused = attempt.instance_type in self._refused or (attempt.spot and self._no_spot) or self._over
        refused = (
            refused or (attempt.instance_type, attempt.spot) in self._denied or attempt.zone in self._full
        )
        if not too_large and not refused:
            return False
        self._spared.append(str(attempt))
        return True

    def skip(self, attempt: Attempt, why: str) -> None:
        """Note an attempt that was not made."""
        self._tried[attempt] = why

    def gave(self, attempt: Attempt, got: int, asked: int) -> None:
        """Note that AWS gave fewer than were asked for, without a word."""
        self._market(attempt)
        self._tried[attempt] = f"AWS gave {got} of {asked}"

    def _market(self, attempt: Attempt) -> None:
        self._spot = self._spot or attempt.spot
        self._fell_back = self._fell_back or not attempt.spot

    def note(self, attempt: Attempt, error: AwsError) -> bool:
        """Note a refusal. Returns whether the next attempt may be made."""
        self._market(attempt)
        if isinstance(error, QuotaError) and error.code not in _OF_MACHINES:
            # Of disks, interfaces and the like, which every type needs; the error itself names it.
            self.quota, self._over = None, True
        elif isinstance(error, QuotaError):
            quota = machine_quota(attempt.instance_type, spot=attempt.spot)
            if quota is not None:
                size = vcpus(attempt.instance_type) or 1
                self._used_up[quota] = min(size, self._used_up.get(quota, size))
            self.quota = quota
        elif error.code == SPOT_ROLE_MISSING:
            self._no_spot = True
        elif _no_such_type(error, attempt.instance_type) or (
            isinstance(error, AccountStateError) and error.code == _FREE_PLAN
        ):
            self._refused.add(attempt.instance_type)
        elif error.code == SUBNET_FULL:
            self._full.add(attempt.zone)
        elif type_denied(error):
            self._denied.add((attempt.instance_type, attempt.spot))
        elif isinstance(error, UnavailableError):
            self._over = True  # the rate is one for all types, zones and markets
        elif not isinstance(error, NoCapacityError):
            return False
        self._unsupported = self._unsupported or error.code in _UNSUPPORTED
        # AWS's words name type and zone: the first that are said with a code stand for the others.
        self._tried[attempt] = self._said.setdefault(error.code, error.diagnosis.why)
        # What can be mended by a person says more than that AWS has none at the moment.
        if self.last is None or isinstance(self.last, NoCapacityError):
            self.last = error
        return True

    def failure(self, what: str, got: int, extra: str = "") -> AwsError:
        """The error of a launch that could not go on."""
        last = self.last
        spared = f"; not asked for again: {len(self._spared)} more" if self._spared else ""
        tried = shortage(self._tried).rstrip(". ")
        came = "are known to have come up" if self.unsure else "came up"
        why = f"{got} {came}; tried {tried}{spared}"
        only_spot = self._spot and not self._fell_back
        other = "spot_policy='spot_with_fallback'" if only_spot else "try again later"
        next_step = f"Allow more vm_types or zones, or {other}."
        kind: type[AwsError] = NoCapacityError
        if last is not None and not isinstance(last, NoCapacityError):
            kind, next_step = type(last), last.diagnosis.next_step
        if last is not None and last.code in SLOW_DOWN:
            next_step = _RATE
        if self.unsure:
            next_step = f"{next_step} {_UNSURE}".strip()
        if self._dedicated and self._unsupported:
            next_step = _TENANCY
        if self._full and {attempt.zone for attempt in self._tried} <= self._full:
            next_step = _FULL
        error = kind(
            what,
            f"{why}. {extra}".strip() if extra else f"{why}.",
            next_step,
            operation="ec2:RunInstances",
            code=last.code if last else "",
        )
        error.retried = "never"
        return error


def shortage(answers: Mapping[Attempt, str]) -> str:
    """One clause on what was tried and what AWS answered; what had the same answer is said together."""
    types: dict[tuple[str, bool, str], list[str]] = {}  # by answer, market and zone
    for one, answer in answers.items():
        types.setdefault((answer, one.spot, one.zone), []).append(one.instance_type)
    zones: dict[tuple[str, bool, tuple[str, ...]], list[str]] = {}
    for (answer, spot, zone), tried in types.items():
        zones.setdefault((answer, spot, tuple(tried)), []).append(zone)
    said: dict[str, list[str]] = {}
    for (answer, spot, tried_there), where in zones.items():
        market = "spot" if spot else "on demand"
        said.setdefault(answer, []).append(f"{', '.join(tried_there)} in {', '.join(where)} ({market})")
    return "; ".join(f"{', '.join(tried)}: {answer}" for answer, tried in said.items())
