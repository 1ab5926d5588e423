"""What machines cost: by the library's own table in its one region, by AWS's price list in others.

https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html. It is an API of
a few regions about all of them, asked once a day, and part of no launch's success: where it may not be read,
or has no answer within seconds, the table stands in, and it is said.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.waits import retry_while
from prefect_coiled.errors import AwsError, CredentialsError, NoAnswerError, ThrottledError
from prefect_coiled.internals import kept
from prefect_coiled.internals.python import side_by_side
from prefect_coiled.plan.prices import Prices, shipped
from prefect_coiled.records import Record

# How long a price holds; and after what time nobody wants it any more.
_GOOD_FOR, _FORGOTTEN = timedelta(days=1), timedelta(days=60)
# Seconds for which nobody asks again where AWS did not say it; and for which a busy AWS is asked again.
_REFUSED_FOR, _BUSY = 300.0, 4.0

_MACHINE = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}
# What is asked for beside machine types, under names that are none.
_GP3, _NAT_GATEWAY = "gp3", "NAT gateway"
_BESIDE = {
    _GP3: {"productFamily": "Storage", "volumeApiName": "gp3"},
    _NAT_GATEWAY: {"productFamily": "NAT Gateway", "operation": "NatGateway", "group": "NGW:NatGateway"},
}


class _Price(Record):
    """What something costs, and when AWS said so; None for what it does not sell there."""

    at: AwareDatetime
    usd: float | None

    def holds(self, now: datetime) -> bool:
        return timedelta() <= now - self.at < _GOOD_FOR


_Known = dict[str, _Price]
_FILE: TypeAdapter[dict[str, _Known]] = TypeAdapter(dict[str, _Known])
_LOCK = threading.Lock()
# By place: prices; spot prices as they were when they were asked for last; and why an account has none, and
# when that was.
_seen: dict[tuple[str, str], _Known] = {}
_spot: dict[tuple[str, str], dict[str, float]] = {}
_refused: dict[tuple[str, str, str], tuple[float, str]] = {}


def find_prices(aws: Aws, types: Iterable[str], *, spot: Iterable[str] = ()) -> Prices:
    """The prices of the door's region, of these machine types; asks AWS for what the table does not have.

    Where AWS does not say it, they are those of the library's table, which may be of another region: `why`
    tells the reason.

    Args:
        spot: Types whose spot prices are asked for, too; they change by the hour, and are kept for no time.

    Raises:
        CredentialsError: If AWS does not accept the credentials.
    """
    now, place = datetime.now(timezone.utc), _place(aws)
    own = aws.region == shipped().region
    # A sandbox is near, and its prices change with its settings.
    known = {} if aws.in_sandbox else {k: one for k, one in _known(aws).items() if one.holds(now)}
    wanted = [*(() if own else _BESIDE), *dict.fromkeys(types)]
    lacking = [one for one in wanted if one not in known and not (own and one in shipped().machines)]
    refused = _refused.get((*place, aws.account))
    if lacking and (aws.in_sandbox or refused is None or time.monotonic() - refused[0] > _REFUSED_FOR):
        _ask(aws, lacking, now)
    if dear := sorted(set(spot)):
        found = _ask_spot(aws, dear, now)
        with _LOCK:
            _spot[place] = {**_spot.get(place, {}), **found}
    return _prices(aws, wanted)


def seen_prices(aws: Aws) -> Prices:
    """The prices of the door's region as far as they are known; asks nobody."""
    return _prices(aws, None)


def _prices(aws: Aws, wanted: Iterable[str] | None) -> Prices:
    """What is known.

    Args:
        wanted: What the day is told of; None for all of it.
    """
    place, table, known = _place(aws), shipped(), _known(aws)
    spot = _spot.get(place, {})
    machines = {name: one.usd for name, one in known.items() if name not in _BESIDE}
    if aws.region == table.region:
        return table.model_copy(update={"machines": {**table.machines, **machines}, "spot": spot})
    beside = [known[one].usd if one in known else None for one in _BESIDE]
    if None in beside:
        why = _refused.get((*place, aws.account), (0.0, "AWS's price list was not read"))[1]
        return table.model_copy(update={"spot": spot, "why": why})
    days = [known[one].at for one in (known if wanted is None else wanted) if one in known]
    return Prices(
        region=aws.region,
        as_of=min(days).astimezone(timezone.utc).date().isoformat(),
        machines=machines,
        gb_month=beside[0],
        nat_gateway=beside[1],
        spot=spot,
    )


def _ask(aws: Aws, names: list[str], now: datetime) -> None:
    """Ask for prices, and keep them; of what AWS does not say it is kept why."""

    def look(name: str) -> tuple[str, _Price]:
        fields = _BESIDE.get(name, {**_MACHINE, "instanceType": name})
        filters = [
            {"Type": "TERM_MATCH", "Field": field, "Value": value}
            for field, value in {"regionCode": aws.region, **fields}.items()
        ]
        what = f"reading the price of {name}"

        def call() -> dict[str, Any]:
            return aws.call("pricing:GetProducts", what, ServiceCode="AmazonEC2", Filters=filters)

        reply = retry_while(aws, what, call, ThrottledError, timeout=_BUSY, interval=1.0)
        try:
            return name, _Price(at=now, usd=_dearest(reply["PriceList"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NoAnswerError(what, f"the answer is none of AWS's ({error!r})") from error

    try:
        # One first: where it has no answer, nobody waits for the others.
        found = dict([look(names[0])])
        found.update(side_by_side(look, names[1:]))
        if all(one in found and found[one].usd is None for one in _BESIDE):
            raise NoAnswerError("reading prices", f"it says nothing of {aws.region}")
    except CredentialsError:
        raise
    except AwsError as error:
        said = error.code or error.diagnosis.why.rstrip(". ")
        with _LOCK:
            why = f"AWS's price list was not to be had: {said}"
            _refused[(*_place(aws), aws.account)] = time.monotonic(), why
        return
    _keep(aws, found, now)


def _ask_spot(aws: Aws, types: list[str], now: datetime) -> dict[str, float]:
    """The price that holds now of each type, in its dearest zone; none where AWS does not say it.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSpotPriceHistory.html
    """
    found: dict[str, float] = {}
    try:
        for one in aws.pages(
            "ec2:DescribeSpotPriceHistory",
            "reading spot prices",
            "SpotPriceHistory",
            InstanceTypes=types,
            ProductDescriptions=["Linux/UNIX"],
            StartTime=now,
        ):
            vm_type = str(one["InstanceType"])
            found[vm_type] = max(float(one["SpotPrice"]), found.get(vm_type, 0.0))
    except CredentialsError:
        raise
    except (AwsError, KeyError, ValueError):  # they count as machines on demand
        return {}
    return found


def _dearest(products: Iterable[str]) -> float | None:
    """The highest price in US dollars of an hour, or of a GB for a month, among products on demand.

    A price by the gigabyte that passes through is none of them.

    Raises:
        AttributeError: What is there is no product; KeyError, TypeError and ValueError likewise.
    """
    found = []
    for product in products:
        terms: Mapping[str, Any] = json.loads(product).get("terms", {}).get("OnDemand", {})
        dimensions = (d for term in terms.values() for d in term["priceDimensions"].values())
        found += [
            float(one["pricePerUnit"]["USD"])
            for one in dimensions
            if one["unit"] in ("Hrs", "Hours", "GB-Mo") and "USD" in one["pricePerUnit"]
        ]
    return max(found, default=0.0) or None


def _place(aws: Aws) -> tuple[str, str]:
    return aws.endpoint_url or "", aws.region


def _known(aws: Aws) -> _Known:
    place = _place(aws)
    with _LOCK:
        if place not in _seen and not aws.endpoint_url:
            _seen[place] = _read().get(aws.region, {})
        return dict(_seen.get(place, {}))


def _keep(aws: Aws, found: _Known, now: datetime) -> None:
    """Keep prices for this process and, where they come from AWS itself, for the next ones."""
    with _LOCK:
        _seen[_place(aws)] = known = {**_seen.get(_place(aws), {}), **found}
        if aws.endpoint_url:
            return
        young = {name: one for name, one in known.items() if now - one.at < _FORGOTTEN}
        kept.write(_file(), _FILE.dump_json({**_read(), aws.region: young}))


def _file() -> Path:
    return kept.folder("prices") / "prices.json"


def _read() -> dict[str, _Known]:
    with contextlib.suppress(OSError, ValidationError):  # none yet, another's, or of another release
        return _FILE.validate_json(kept.read(_file()))
    return {}
