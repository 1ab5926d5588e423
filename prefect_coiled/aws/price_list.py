"""What machines cost in a region by AWS's own price list, where the caller may read it; asked for once a day.

https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html. It is an API of
a few regions about all of them, and part of no launch's success: where it has no answer within seconds, the
library's own table stands in, and it is said.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AwsError, CredentialsError
from prefect_coiled.internals.python import side_by_side
from prefect_coiled.plan.prices import Prices, shipped
from prefect_coiled.records import Record

# How long prices hold; and how long a refusal does.
_GOOD_FOR, _REFUSED_FOR = timedelta(days=1), timedelta(hours=1)
# Other partitions have price lists, and currencies, of their own.
_ELSEWHERE = ("cn-", "us-gov-", "us-iso", "eu-isoe-", "eusc-")

_MACHINE = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}
_GP3 = {"productFamily": "Storage", "volumeApiName": "gp3"}
_NAT_GATEWAY = {"productFamily": "NAT Gateway", "operation": "NatGateway", "group": "NGW:NatGateway"}


class _Kept(Record):
    """What was asked of a region; None for a type that AWS does not sell there."""

    asked: datetime
    machines: dict[str, float | None] = {}
    gb_month: float | None = None
    nat_gateway: float | None = None
    why: str = ""

    def holds(self, now: datetime) -> bool:
        return timedelta() <= now - self.asked < (_REFUSED_FOR if self.why else _GOOD_FOR)


_FILE: TypeAdapter[dict[str, _Kept]] = TypeAdapter(dict[str, _Kept])
_LOCK = threading.Lock()
_seen: dict[tuple[str, str], _Kept] = {}


def find_prices(aws: Aws, types: Iterable[str]) -> Prices:
    """The prices of the door's region, of these machine types at least; asks AWS for what is not known yet.

    Where AWS does not say it, they are those of the library's table, which may be of another region: `why`
    tells the reason.

    Raises:
        CredentialsError: If AWS does not accept the credentials.
    """
    now = datetime.now(timezone.utc)
    kept = _kept(aws)
    # A sandbox is near, and its prices change with its settings.
    if kept is None or not kept.holds(now) or aws.in_sandbox:
        kept = _Kept(asked=now)
    lacking = [] if kept.why else [one for one in dict.fromkeys(types) if one not in kept.machines]
    if lacking or not (kept.why or kept.nat_gateway):
        kept = _keep(aws, _ask(aws, kept, lacking))
    return _prices(aws, kept)


def seen_prices(aws: Aws) -> Prices:
    """The prices of the door's region as far as they are known; asks nobody."""
    kept = _kept(aws)
    return shipped() if kept is None else _prices(aws, kept)


def _prices(aws: Aws, kept: _Kept) -> Prices:
    table = shipped(kept.why)
    if kept.why:
        return table
    own = table.machines if table.region == aws.region else {}
    found = {name: price for name, price in kept.machines.items() if price is not None}
    return Prices(
        region=aws.region,
        as_of=kept.asked.date().isoformat(),
        machines={**own, **found},
        gb_month=kept.gb_month or table.gb_month,
        nat_gateway=kept.nat_gateway or table.nat_gateway,
    )


def _ask(aws: Aws, kept: _Kept, types: list[str]) -> _Kept:
    if aws.region.startswith(_ELSEWHERE):
        return _Kept(asked=kept.asked, why="AWS's price list is read for its commercial regions alone")

    def look(wanted: Mapping[str, str]) -> float | None:
        filters = [
            {"Type": "TERM_MATCH", "Field": field, "Value": value}
            for field, value in {"regionCode": aws.region, **wanted}.items()
        ]
        what = f"reading prices of {wanted.get('instanceType') or wanted['productFamily']}"
        reply = aws.call("pricing:GetProducts", what, ServiceCode="AmazonEC2", Filters=filters)
        return _dearest(reply["PriceList"])

    questions = [{**_MACHINE, "instanceType": one} for one in types]
    if not kept.nat_gateway:
        questions += [_GP3, _NAT_GATEWAY]
    try:
        answers = side_by_side(look, questions)
    except CredentialsError:
        raise
    except AwsError as error:
        why = f"AWS's price list was not to be had: {error.code or error.diagnosis.why.rstrip('. ')}"
        return _Kept(asked=kept.asked, why=why)
    rest = {"gb_month": kept.gb_month, "nat_gateway": kept.nat_gateway}
    if len(answers) > len(types):
        rest = dict(zip(rest, answers[len(types) :], strict=True))
    machines = {**kept.machines, **dict(zip(types, answers, strict=False))}
    if not any(machines.values()) and not any(rest.values()):  # an API that knows nothing of this region
        return _Kept(asked=kept.asked, why=f"AWS's price list says nothing of {aws.region}")
    return kept.model_copy(update={"machines": machines, **rest})


def _dearest(products: Iterable[str]) -> float | None:
    """The highest price in US dollars among products, on demand, by what they cost from the first unit on.

    A price by the gigabyte that passes through is none of them.
    """
    found = []
    for product in products:
        terms: dict[str, Any] = json.loads(product).get("terms", {}).get("OnDemand", {})
        dimensions = (d for term in terms.values() for d in term["priceDimensions"].values())
        found += [
            float(one["pricePerUnit"]["USD"])
            for one in dimensions
            if one["unit"] in ("Hrs", "Hours", "GB-Mo") and "USD" in one["pricePerUnit"]
        ]
    return max(found, default=0.0) or None


def _key(aws: Aws) -> tuple[str, str]:
    return aws.endpoint_url or "", aws.region


def _kept(aws: Aws) -> _Kept | None:
    with _LOCK:
        if _key(aws) not in _seen and not aws.endpoint_url:
            _seen.update({("", region): one for region, one in _read().items()})
        return _seen.get(_key(aws))


def _keep(aws: Aws, kept: _Kept) -> _Kept:
    """Keep it for this process and, where it comes from AWS itself, for the next ones."""
    with _LOCK:
        before = _seen.get(_key(aws))
        if before is not None and before.holds(kept.asked) and not (before.why or kept.why):
            # Of other types, which somebody else asked for meanwhile.
            kept = kept.model_copy(update={"machines": {**before.machines, **kept.machines}})
        _seen[_key(aws)] = kept
        if aws.endpoint_url:
            return kept
        known = {**_read(), aws.region: kept}
        with contextlib.suppress(OSError, RuntimeError):  # a home that cannot be written asks again
            _file().parent.mkdir(parents=True, exist_ok=True)
            part = _file().with_suffix(f".{os.getpid()}")
            part.write_bytes(_FILE.dump_json(known))
            part.replace(_file())
    return kept


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefect-coiled" / "prices.json"


def _read() -> dict[str, _Kept]:
    try:
        return _FILE.validate_json(_file().read_bytes())
    except (OSError, RuntimeError, ValidationError):  # none yet, no home, or of another release
        return {}
