"""How often a call may be made: token buckets by service and action, with each service's code.

https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html for EC2: a bucket for the requests of
each action, and another one for the machines of RunInstances, StartInstances, StopInstances and
TerminateInstances. The other services have their pages in the table. Off but in the profile "realistic".
"""

from __future__ import annotations

import fnmatch
import functools
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from prefect_coiled.sandbox.calls import Environ, StartResponse, WsgiApp, call_of
from prefect_coiled.sandbox.rules.asked import Asked, UnreadableError, asked_of
from prefect_coiled.sandbox.rules.table import Refusal, kept
from prefect_coiled.sandbox.settings import Settings

__all__ = ["RATES", "Bucket", "Rate", "Rates", "rates_of"]

_EC2 = "https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html"
_LOGS = "https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html"
_SSM = "https://docs.aws.amazon.com/general/latest/gr/ssm.html"
_ECR = "https://docs.aws.amazon.com/AmazonECR/latest/userguide/service-quotas.html"
_S3 = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html"
_STS = "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html"


class Rate(NamedTuple):
    """One bucket.

    Attributes:
        service: As in the signature's scope.
        calls: Globs over actions; each action has a bucket of its own, but where `shared`.
        size: Tokens that a full bucket holds.
        refill: Tokens a second.
        shared: Whether all these actions take from one bucket.
        units: What a call takes: "call", or "machines" for one token for each machine.
    """

    service: str
    calls: str
    size: float
    refill: float
    shared: bool = False
    units: str = "call"


# The first row that fits counts; of EC2's machines and its requests one each.
RATES = (
    Rate("ec2", "RunInstances StartInstances", 1000, 2, units="machines"),
    Rate("ec2", "TerminateInstances StopInstances", 1000, 20, units="machines"),
    Rate("ec2", "RunInstances StartInstances", 5, 2),
    Rate(
        "ec2",
        "TerminateInstances CreateNetworkInterface DeleteNetworkInterface CreateVolume DeleteVolume "
        "CreateSnapshot DeleteSnapshot DeregisterImage CreateLaunchTemplateVersion ModifyLaunchTemplate "
        "AssociateIamInstanceProfile DisassociateIamInstanceProfile ModifyNetworkInterfaceAttribute "
        "ModifyInstanceMetadataOptions ModifyImageAttribute ModifySnapshotAttribute",
        100,
        5,
    ),
    Rate("ec2", "CreateTags DeleteTags", 100, 10),
    Rate("ec2", "CopyImage", 100, 1),
    Rate("ec2", "CreateNatGateway DeleteNatGateway AssociateNatGatewayAddress", 10, 1),
    Rate("ec2", "CreateVpcEndpoint ModifyVpcEndpoint DeleteVpcEndpoints", 4, 0.3),
    Rate("ec2", "CreateDefaultVpc CreateDefaultSubnet", 1, 1),
    Rate("ec2", "Describe* List* Search* Get*", 100, 20),
    Rate("ec2", "*", 50, 5),
    Rate("logs", "CreateLogStream", 50, 50),
    Rate("logs", "PutLogEvents", 800, 800),
    Rate("logs", "GetLogEvents", 10, 10),
    Rate(
        "logs",
        "FilterLogEvents DescribeLogGroups DescribeLogStreams CreateLogGroup DeleteLogGroup "
        "PutRetentionPolicy ListTagsForResource TagResource",
        5,
        5,
    ),
    Rate("ssm", "GetParameter GetParameters GetParametersByPath", 40, 40, shared=True),
    Rate("ssm", "PutParameter", 3, 3),
    Rate("ssm", "DeleteParameter DeleteParameters", 5, 5),
    Rate("ssm", "DescribeParameters AddTagsToResource", 5, 5),
    Rate("ecr", "GetAuthorizationToken", 500, 500),
    Rate("ecr", "BatchGetImage GetDownloadUrlForLayer", 2000, 2000),
    Rate("ecr", "BatchCheckLayerAvailability", 1000, 1000),
    Rate(
        "ecr",
        "DescribeImages DescribeRepositories CreateRepository DeleteRepository PutImage "
        "PutLifecyclePolicy GetLifecyclePolicy ListTagsForResource",
        10,
        10,
    ),
    Rate("iam", "Get* List* Simulate*", 20, 20),
    Rate("iam", "*", 10, 5),
    Rate("sts", "*", 600, 600, shared=True),
    Rate("s3", "GetObject HeadObject", 5500, 5500, shared=True),
    Rate("s3", "PutObject DeleteObject DeleteObjects CopyObject UploadPart", 3500, 3500, shared=True),
)

# Without a filter and without pages, these take from a smaller bucket of their own.
_LONG_LISTS = frozenset(
    {
        "DescribeInstances",
        "DescribeInstanceStatus",
        "DescribeNetworkInterfaces",
        "DescribeSecurityGroups",
        "DescribeSnapshots",
        "DescribeSpotInstanceRequests",
        "DescribeVolumes",
    }
)
_LONG_LIST = Rate("ec2", "unfiltered", 50, 10)

_ANSWERS = {
    "ec2": Refusal("RequestLimitExceeded", "Request limit exceeded.", 503),
    "iam": Refusal("Throttling", "Rate exceeded", 400),
    "sts": Refusal("Throttling", "Rate exceeded", 400),
    "s3": Refusal("SlowDown", "Please reduce your request rate.", 503),
}
_ANSWER = Refusal("ThrottlingException", "Rate exceeded", 400)

kept(
    "rates",
    "ec2",
    "*",
    "RequestLimitExceeded",
    "Requests by action: Describe* 100 and 20 a second (50 and 10 where a long list has neither filter "
    "nor page), "
    "RunInstances 5 and 2, CreateVpcEndpoint 4 and 0.3, the others as published; changes 50 and 5. Machines: "
    "launches 1000 and 2 a second, ends 1000 and 20.",
    _EC2,
    "rates",
)
kept(
    "rates",
    "logs",
    "*",
    "ThrottlingException",
    "The least of any region and any time: CreateLogStream 50 a second, PutLogEvents 800, GetLogEvents 10, "
    "FilterLogEvents and the others 5.",
    _LOGS,
    "rates",
)
kept(
    "rates",
    "ssm",
    "*",
    "ThrottlingException",
    "Parameter Store without higher throughput: 40 reads a second together, 3 writes, 5 deletes.",
    _SSM,
    "rates",
)
kept(
    "rates",
    "ecr",
    "*",
    "ThrottlingException",
    "GetAuthorizationToken 500 a second, BatchGetImage 2000, calls on repositories 10.",
    _ECR,
    "rates",
)
kept(
    "rates",
    "iam",
    "*",
    "Throttling",
    "AWS publishes no numbers; 20 reads and 5 changes a second (10 at once) are careful ones.",
    _STS,
    "rates",
)
kept("rates", "sts", "*", "Throttling", "600 calls a second.", _STS, "rates")
kept("rates", "s3", "*", "SlowDown", "5,500 reads and 3,500 writes a second.", _S3, "rates")


class Bucket:
    """Tokens, and their refill.

    Args:
        size: How many it holds; it begins full.
        refill: How many come in a second.
        now: The time.
    """

    def __init__(self, size: float, refill: float, now: float) -> None:
        self._size, self._refill = size, refill
        self._left, self._at = size, now

    def take(self, tokens: float, now: float) -> bool:
        """Take so many, if they are there."""
        self._left = min(self._size, self._left + (now - self._at) * self._refill)
        self._at = now
        if self._left < tokens:
            return False
        self._left -= tokens
        return True

    def give(self, tokens: float) -> None:
        """Give back what was taken for nothing."""
        self._left = min(self._size, self._left + tokens)


@functools.lru_cache(maxsize=1024)
def rates_of(service: str, action: str) -> tuple[Rate, ...]:
    """The buckets that a call takes from: that of its requests, and that of its machines.

    Args:
        service: The service.
        action: The action.
    """
    found: dict[str, Rate] = {}
    for rate in RATES:
        if rate.service == service and any(fnmatch.fnmatchcase(action, c) for c in rate.calls.split()):
            found.setdefault(rate.units, rate)
    return tuple(found.values())


class Rates:
    """Middleware: refuses what comes too often.

    Args:
        app: The next application of the chain.
        settings: `rates` switches it on.
        clock: Seconds.
    """

    def __init__(self, app: WsgiApp, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._settings = settings
        self._clock = clock
        self._buckets: dict[tuple[str, ...], Bucket] = {}
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Fill all buckets."""
        with self._lock:
            self._buckets.clear()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or hand on to the next application."""
        call = call_of(environ)
        if self._settings.rates == "on" and call.service:
            try:
                asked = asked_of(call)
            except UnreadableError:
                asked = None
            if asked is not None and not self.allows(asked):
                code, message, status = _ANSWERS.get(call.service, _ANSWER)
                return call.error(start_response, code, status, message)
        return self._app(environ, start_response)

    def allows(self, asked: Asked) -> bool:
        """Whether the call's buckets have enough for it; takes it."""
        rates = [_LONG_LIST] if _is_long_list(asked) else list(rates_of(asked.service, asked.action))
        with self._lock:
            now = self._clock()
            taken: list[tuple[Bucket, float]] = []
            for rate in rates:
                own = rate.calls if rate.shared else asked.action
                # IAM is one for all regions.
                place = "" if asked.service in ("iam", "sts") else asked.region
                key = (rate.service, place, rate.units, own, str(rate.size))
                bucket = self._buckets.setdefault(key, Bucket(rate.size, rate.refill, now))
                tokens = float(_machines(asked)) if rate.units == "machines" else 1.0
                if not bucket.take(tokens, now):
                    for other, given in taken:
                        other.give(given)
                    return False
                taken.append((bucket, tokens))
        return True


def _is_long_list(asked: Asked) -> bool:
    if asked.service != "ec2" or asked.action not in _LONG_LISTS:
        return False
    params: Any = asked.params
    return not any(params.get(name) for name in ("Filters", "MaxResults", "NextToken"))


def _machines(asked: Asked) -> int:
    if asked.action == "RunInstances":
        return int(asked.get("MaxCount") or 1)
    return len(asked.all("InstanceIds"))
