"""Service Quotas answers with the limits of the settings; moto knows a VPC's only.

https://docs.aws.amazon.com/servicequotas/2019-06-24/apireference/API_GetServiceQuota.html
"""

from __future__ import annotations

from typing import Any

from moto.servicequotas.models import ServiceQuotasBackend

from prefect_coiled.sandbox.rules.fresh import QUOTAS, limit_of
from prefect_coiled.sandbox.settings import Settings

__all__ = ["install"]

# What a family has that the settings leave without a limit.
_AMPLE = 100_000.0
_ADDRESSES, _VPCS = "L-0263D0A3", "L-F678F1CE"


def install(settings: Settings) -> None:
    """Answer for vCPUs, addresses and VPCs.

    Args:
        settings: `vcpus`, `address_limit` and `vpc_limit`.
    """
    moto_get = ServiceQuotasBackend.get_service_quota

    def get_service_quota(self: Any, service_code: str, quota_code: str) -> Any:
        named = _named(settings, service_code, quota_code)
        if named is None:
            return moto_get(self, service_code, quota_code)
        name, value = named
        arn = f"arn:aws:servicequotas:{self.region_name}:{self.account_id}:{service_code}/{quota_code}"
        return {
            "ServiceCode": service_code,
            "QuotaCode": quota_code,
            "QuotaArn": arn,
            "QuotaName": name,
            "Value": value,
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
        }

    ServiceQuotasBackend.get_service_quota = get_service_quota


def _named(settings: Settings, service: str, code: str) -> tuple[str, float] | None:
    if (service, code) == ("ec2", _ADDRESSES):
        return "EC2-VPC Elastic IPs", float(_or_ample(settings.address_limit))
    if (service, code) == ("vpc", _VPCS) and settings.vpc_limit is not None:
        return "VPCs per Region", float(settings.vpc_limit)
    for family, (on_demand, spot) in QUOTAS.items() if service == "ec2" else ():
        if code in (on_demand, spot):
            words = "Running On-Demand" if code == on_demand else "All Spot"
            return f"{words} {family} instances", float(_or_ample(limit_of(settings.vcpus, family)))
    return None


def _or_ample(limit: int | None) -> float:
    return _AMPLE if limit is None else limit
