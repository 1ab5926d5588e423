"""The shortest real life in an account, under a lid of cost, and a report of what differed from the sandbox.

    who are we, what would be denied, what fits ─▶ set-up ─▶ a cluster of 1 + 1 smallest machines
        ─▶ a flow on it ─▶ its logs ─▶ close ─▶ sweep ─▶ report

Whatever fails, what was made is removed, and the report says so. It holds no account number, id, address or
name: it can be pasted into a bug report.
"""

from __future__ import annotations

import json
import platform
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from typing import Any, NamedTuple

from prefect import flow, task

from prefect_coiled.aws.caller import find_caller
from prefect_coiled.aws.foresight import foresee
from prefect_coiled.aws.kinds import KINDS
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.aws.price_list import find_prices
from prefect_coiled.cluster import Cluster
from prefect_coiled.costs import MachineUse, estimate
from prefect_coiled.errors import AwsError, OptionsError
from prefect_coiled.events import EVERYWHERE, Event, tell
from prefect_coiled.options import merge
from prefect_coiled.plan.aws_codes import CODES
from prefect_coiled.plan.lid import check_region
from prefect_coiled.provision import remove_cluster, set_up_account, sweep
from prefect_coiled.provision.room import find_room
from prefect_coiled.records import Record
from prefect_coiled.task_runner import CoiledTaskRunner
from prefect_coiled.tasks.steps import Session, use_session

# The smallest type on which Dask and Prefect fit; accounts on the free plan have it too.
VM_TYPE = "t3.small"
# Seconds that the cluster lives at most; a machine ends by itself then.
_LONGEST = 1800.0
_DISK = 30
# With what AWS's ids begin.
_IDS = "i|vol|ami|snap|lt|sg|eni|vpc|subnet|igw|rtb|nat|eipalloc|vpce"
# How deep the fields of answers are compared.
_DEPTH = 4


class StepRecord(Record):
    """A step of the examination.

    Attributes:
        seconds: How long it took.
        note: What it found, without ids.
        error: Class and code of what failed; empty where nothing did.
    """

    name: str
    seconds: float
    ok: bool
    note: str = ""
    error: str = ""


class Examination(Record):
    """What came of it; without anything that tells whose account it is.

    Attributes:
        usd_at_most: What it can have cost by AWS's list prices.
        calls: How often each action was called.
        codes: How often each error code was answered, by action.
        unknown_codes: Those that the table of codes does not have.
        fields: Fields of answers that the sandbox does not give, by action.
        lacking: Fields that the sandbox gives and AWS did not, by action.
        left: What could not be removed, by kind.
    """

    version: str
    python: str
    region: str
    sandbox: bool
    usd_at_most: float
    steps: tuple[StepRecord, ...]
    calls: dict[str, int]
    codes: dict[str, int]
    unknown_codes: tuple[str, ...]
    fields: dict[str, tuple[str, ...]]
    lacking: dict[str, tuple[str, ...]]
    left: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every step came through and nothing is left."""
        return all(step.ok for step in self.steps) and not self.left


def hourly_price(account: Account) -> float:
    """What the cluster costs an hour by AWS's list prices, in US dollars.

    Raises:
        CredentialsError: If AWS does not accept the credentials.
        OptionsError: If that is not known, so that nothing can be held to it.
    """
    aws = account.door(merge(None, account.options).options.region)
    prices = find_prices(aws, [VM_TYPE])
    check_region(prices, aws.region, "spend", otherwise="Or choose a region whose prices are known.")
    uses = [MachineUse(vm_type=VM_TYPE, count=2, hours=1.0, disk_gb=_DISK, public_ip=True)]
    total = estimate(uses, prices=prices).total_usd
    if total is None:
        raise OptionsError("spend", f"the price of {VM_TYPE} in {aws.region} is not known.")
    return total + 2 * prices.surplus(VM_TYPE)


def seconds_for(spend: float, price: float) -> float:
    """How long the cluster may live.

    Args:
        spend: US dollars that it may cost at most.
        price: Its price an hour, in US dollars.

    Raises:
        OptionsError: If even the shortest life costs more.
    """
    seconds = min(spend / price * 3600, _LONGEST)
    if not seconds >= 600:  # what is no number is not enough either
        raise OptionsError(
            f"spend {spend}",
            f"is less than ten minutes of two {VM_TYPE} cost: {price / 6:.3f} US dollars.",
            "Allow more.",
        )
    return seconds


def examine(account: Account, *, spend: float = 0.5) -> Examination:
    """Live through a cluster's shortest life in an account.

    Args:
        spend: US dollars that it may cost at most; the cluster's machines end by themselves before.

    Raises:
        OptionsError: If even the shortest life costs more than `spend`.
    """
    price = hourly_price(account)
    seconds = seconds_for(spend, price)
    seen = _Seen()
    EVERYWHERE.subscribe(seen)
    try:
        steps, left = _live(account, seconds)
    finally:
        EVERYWHERE.unsubscribe(seen)
    from prefect_coiled import __version__

    region = merge(None, account.options).options.region
    fields, lacking = differences(seen.fields, _baseline())
    return Examination(
        version=__version__,
        python=platform.python_version(),
        region=region,
        sandbox=account.is_sandbox,
        usd_at_most=round(price * seconds / 3600, 3),
        steps=tuple(steps),
        calls=dict(sorted(seen.calls.items())),
        codes=dict(sorted(seen.codes.items())),
        unknown_codes=tuple(sorted({code for _, code in seen.pairs if code and code not in CODES})),
        fields=fields,
        lacking=lacking,
        left=left,
    )


def _tell(step: str, state: str) -> None:
    tell(Event("examination", state, step=step))


def _live(account: Account, seconds: float) -> tuple[list[StepRecord], tuple[str, ...]]:
    steps: list[StepRecord] = []
    options = merge(None, account.options).options
    name = f"doctor-{secrets.token_hex(3)}"
    aws = account.door()
    made: list[Cluster] = []

    @contextmanager
    def step(title: str) -> Iterator[list[str]]:
        _tell(title, "begun")
        begun, notes, error = time.monotonic(), list[str](), ""
        try:
            yield notes
        except Exception as failure:  # whatever fails is what the report is for
            code = f" {failure.code}" if isinstance(failure, AwsError) else ""
            error = f"{type(failure).__name__}{code}"
            _tell(title, str(failure))
            raise _GaveUpError from failure
        finally:
            took = round(time.monotonic() - begun, 1)
            steps.append(
                StepRecord(name=title, seconds=took, ok=not error, note="; ".join(notes), error=error)
            )
            _tell(title, f"{'; '.join(notes) or 'done'} ({took} s)" if not error else f"failed: {error}")

    left: Mapping[str, str] = {}
    try:
        with step("check") as notes:
            denied = foresee(aws, find_caller(aws))
            notes.append(f"{len(denied)} permissions would be denied")
        with step("room") as notes:
            room = find_room(aws, VM_TYPE, VM_TYPE, spot=False)
            notes.append(f"{'unknown' if room.workers is None else room.workers} workers")
        with step("set-up"), use_session(Session(aws)):
            set_up_account(
                account.slug,
                options.region,
                options.default_zone,
                "public-ip",
                every_zone=False,
                network=options.network is None,
                registry=options.registry.kind,
            )
        with step("cluster") as notes:
            made.append(_cluster(account, name, seconds))
            notes.append(f"{len(made[0].scheduler_info['workers'])} worker")
        with step("flow") as notes:
            notes.append(_flow(made[0]))
        with step("logs") as notes:
            texts = made[0].get_logs(cluster=False)
            notes.append(f"{sum(len(text.splitlines()) for text in texts.values())} lines")
        with step("close"):
            made[0].close()
    except _GaveUpError:
        _tell("close", "removing what was made")
    finally:
        for cluster in made:
            with suppress(Exception):  # what it could not remove is removed below, or is the report's
                cluster.close()
        try:
            with step("sweep") as notes, use_session(Session(aws)):
                removal = remove_cluster(aws, name)
                left = removal.left
                removal += sweep(account.slug, options.region, release_nat=False)
                left = removal.left
                notes.append(f"{len(left) or 'nothing is'} left")
        except _GaveUpError as failure:
            left = {**left, **getattr(failure.__cause__, "left", {})}
            _tell("sweep", "run `prefect-coiled sweep`")
    return steps, tuple(sorted({kind_of(key) for key in left}))


class _GaveUpError(Exception):
    """A step failed and is noted; what is left is to remove."""


def _cluster(account: Account, name: str, seconds: float) -> Cluster:
    return Cluster(
        name=name,
        n_workers=1,
        account=account.slug,
        worker_vm_types=VM_TYPE,
        scheduler_vm_types=VM_TYPE,
        worker_disk_size=_DISK,
        scheduler_disk_size=_DISK,
        wait_for_workers=True,
        cluster_timeout=seconds,
        backend_options={"egress": "public-ip"},
        quiet=True,  # Dask would print its log on standard output, which may be for JSON
        report=_tell,
    )


def _flow(cluster: Cluster) -> str:
    @task
    def square(x: int) -> int:
        return x * x

    @flow(name="doctor", task_runner=CoiledTaskRunner(cluster=cluster))
    def squares() -> int:
        return sum(future.result() for future in square.map(range(4)))

    return f"answer {squares()}"


class _Seen:
    """What the calls of the examination answered: counts, codes and fields, and no value."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.pairs: set[tuple[str, str]] = set()
        self.fields: dict[str, set[str]] = {}

    def __call__(self, event: Event) -> None:
        if event.kind != "reply":
            return
        self.calls[event.action] += 1
        if isinstance(event.error, AwsError):
            self.codes[f"{event.action} {event.error.code}"] += 1
            self.pairs.add((event.action, event.error.code))
            return
        self.fields.setdefault(event.action, set()).update(fields_of(event.reply))


def fields_of(value: Any, path: str = "", depth: int = _DEPTH) -> Iterator[str]:
    """The names of the fields of an answer; of what is named by its values, such as tags, none."""
    if depth and isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("ResponseMetadata", "Tags", "tags"):
                continue
            here = f"{path}.{key}" if path else str(key)
            yield here
            yield from fields_of(inner, here, depth - 1)
    elif depth and isinstance(value, (list, tuple)):
        for inner in value:
            yield from fields_of(inner, path, depth)


class Known(NamedTuple):
    """The fields of an action's answers in the sandbox: those of each life, and those of some.

    An AWS account on the free plan is answered otherwise than one that pays, and each is right.
    """

    always: frozenset[str] = frozenset()
    at_times: frozenset[str] = frozenset()


def _baseline() -> dict[str, Known]:
    """The fields that the sandbox answers with, by action; written by `scripts/write_doctor_fields.py`."""
    text = resources.files("prefect_coiled").joinpath("doctor_fields.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, list[str]]] = json.loads(text)
    return {
        action: Known(*(frozenset(fields[key]) for key in Known._fields)) for action, fields in found.items()
    }


def differences(
    seen: Mapping[str, set[str]], known: Mapping[str, Known]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """By action, the fields that were answered and are not known, and those of each life that were not."""
    more = {a: f - known.get(a, Known()).always - known.get(a, Known()).at_times for a, f in seen.items()}
    less = {a: {one for one in known[a].always - f if _shown(one, f)} for a, f in seen.items() if a in known}
    told = [{a: tuple(sorted(f)) for a, f in sorted(some.items()) if f} for some in (more, less)]
    return told[0], told[1]


def _shown(field: str, seen: set[str]) -> bool:
    """Whether what has a field was answered with at all: what an empty list would hold lacks in no answer."""
    parent = field.rpartition(".")[0]
    return not parent or any(one.rpartition(".")[0] == parent for one in seen)


def kind_of(left: str) -> str:
    """The kind of what is left, from its id; never a name that somebody gave, such as a slug."""
    if left in {kind.name for kind in KINDS.values()}:
        return left  # which AWS did not show
    if found := re.fullmatch(rf"({_IDS})-[0-9a-f]{{8,}}", left):
        return found[1]
    if left.startswith("/"):
        return "parameter"
    return "policy" if left.startswith("arn:") and ":policy/" in left else "other"
