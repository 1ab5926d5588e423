"""AWS's price list, which moto has not: what machines, disks and NAT gateways cost.

https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_pricing_GetProducts.html. Prices are
those of the table beside `plan.machines`, which is data of us-east-1; other regions are dearer by a factor of
the sandbox's own, but for what `prices` of the settings says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from prefect_coiled.sandbox.calls import Environ, StartResponse, WsgiApp, call_of, reply
from prefect_coiled.sandbox.settings import Settings

__all__ = ["PriceList", "hourly"]

_TABLE = Path(__file__).parents[1] / "plan" / "machines.json"
_CHEAP = ("us-east-1", "us-east-2", "us-west-2")
_ELSEWHERE = 1.25
# https://aws.amazon.com/ebs/pricing, /vpc/pricing; us-east-1.
_GP3_GB_MONTH, _NAT_HOUR, _NAT_GB = 0.08, 0.045, 0.045
# Who lists everything gets so many at a time.
_MOST = 100
_SERVICE = "AmazonEC2"
_MACHINE = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
    "licenseModel": "No License required",
    "operation": "RunInstances",
}


class PriceList:
    """Middleware: answers GetProducts.

    Args:
        app: The next application of the chain.
        settings: `prices`.
    """

    def __init__(self, app: WsgiApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or hand on to the next application."""
        call = call_of(environ)
        if (call.service, call.action) != ("pricing", "GetProducts"):
            return self._app(environ, start_response)
        if call.params.get("ServiceCode") != _SERVICE:
            return call.error(start_response, "NotFoundException", message="Invalid service code.")
        wanted = {}
        for one in call.params.get("Filters") or ():
            if one.get("Type") not in ("TERM_MATCH", "EQUALS"):
                return call.error(
                    start_response,
                    "InvalidParameterException",
                    message="The sandbox knows filters of TERM_MATCH and EQUALS.",
                )
            wanted[str(one["Field"])] = str(one["Value"]).lower()
        begin = int(call.params.get("NextToken") or 0)
        end = begin + int(call.params.get("MaxResults") or _MOST)
        found = [one for one in self._products(wanted) if _fits(one, wanted)]
        answer: dict[str, Any] = {
            "FormatVersion": "aws_v1",
            "PriceList": [json.dumps(one) for one in found[begin:end]],
            **({"NextToken": str(end)} if len(found) > end else {}),
        }
        return reply(start_response, 200, json.dumps(answer), "application/x-amz-json-1.1")

    def _products(self, wanted: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        region = wanted.get("regionCode", "us-east-1")
        factor = _factor(region)
        every = {**_machines(), **self._settings.prices.get(region, {})}
        for vm_type in (wanted["instanceType"],) if "instanceType" in wanted else every:
            price = hourly(self._settings, region, vm_type)
            if price is None:
                continue
            labels = {**_MACHINE, "instanceType": vm_type, "usagetype": f"BoxUsage:{vm_type}"}
            yield _product("Compute Instance", region, labels, price, "Hrs")
        gp3 = {"volumeApiName": "gp3", "usagetype": "EBS:VolumeUsage.gp3"}
        yield _product("Storage", region, gp3, _GP3_GB_MONTH * factor, "GB-Mo")
        gateway = {"group": "NGW:NatGateway", "operation": "NatGateway"}
        for usage, price, unit in (("Hours", _NAT_HOUR, "Hrs"), ("Bytes", _NAT_GB, "GB")):
            labels = {**gateway, "usagetype": f"NatGateway-{usage}"}
            yield _product("NAT Gateway", region, labels, price * factor, unit)


def hourly(settings: Settings, region: str, vm_type: str) -> float | None:
    """What a machine costs an hour on demand; None for a type of which nothing is known."""
    own = settings.prices.get(region, {})
    listed = _machines().get(vm_type)
    if vm_type in own or listed is None:
        return own.get(vm_type)
    return listed * _factor(region)


def _factor(region: str) -> float:
    return 1.0 if region in _CHEAP else _ELSEWHERE


@cache
def _machines() -> dict[str, float]:
    table = json.loads(_TABLE.read_text(encoding="utf-8"))
    column = table["columns"].index("usd_per_hour")
    return {name: row[column] for name, row in table["types"].items()}


def _fits(product: dict[str, Any], wanted: Mapping[str, str]) -> bool:
    there = {**product["product"]["attributes"], "productFamily": product["product"]["productFamily"]}
    return all(str(there.get(field, "")).lower() == value for field, value in wanted.items())


def _product(family: str, region: str, labels: dict[str, str], usd: float, unit: str) -> dict[str, Any]:
    sku = hashlib.sha256(f"{region} {labels['usagetype']}".encode()).hexdigest()[:16].upper()
    term, rate = f"{sku}.JRTCKXETXF", f"{sku}.JRTCKXETXF.6YS6EN2CT7"
    dimension = {
        "rateCode": rate,
        "unit": unit,
        "beginRange": "0",
        "endRange": "Inf",
        "description": f"${usd:g} per {unit} of {labels['usagetype']}",
        "appliesTo": [],
        "pricePerUnit": {"USD": f"{usd:.10f}"},
    }
    return {
        "product": {
            "productFamily": family,
            "sku": sku,
            "attributes": {"regionCode": region, "servicecode": _SERVICE, **labels},
        },
        "serviceCode": _SERVICE,
        "terms": {"OnDemand": {term: {"sku": sku, "priceDimensions": {rate: dimension}}}},
    }
