"""What spot machines cost: moto has one price for all, of no time, whatever product is asked for.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSpotPriceHistory.html
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.responses.spot_instances import SpotInstances

from prefect_coiled.sandbox.price_list import hourly
from prefect_coiled.sandbox.settings import Settings

__all__ = ["install"]

# Of the price on demand: by the sandbox's own measure, and a little more in each next zone.
_PART, _MORE = 0.3, 0.02
_PRODUCT = "Linux/UNIX"


def install(settings: Settings) -> None:
    """Answer with a part of the price on demand, in each zone.

    Args:
        settings: `prices`.
    """

    def describe_spot_price_history(self: Any) -> ActionResult:
        products = self._get_param("ProductDescriptions", []) or [_PRODUCT]
        offered = self.ec2_backend.describe_spot_price_history(
            self._get_param("InstanceTypes", []), self._filters_from_querystring()
        )
        history = []
        for one in offered if _PRODUCT in products else ():
            kind, zone = str(one["InstanceType"]), str(one["Location"])
            price = hourly(settings, zone[:-1], kind)
            if price is None:
                continue
            part = _PART + _MORE * (ord(zone[-1]) - ord("a"))
            history.append(
                {
                    "InstanceType": kind,
                    "ProductDescription": _PRODUCT,
                    "SpotPrice": f"{price * part:.6f}",
                    "AvailabilityZone": zone,
                    "Timestamp": datetime.now(timezone.utc),
                }
            )
        return ActionResult({"SpotPriceHistory": history})

    SpotInstances.describe_spot_price_history = describe_spot_price_history
