"""Remove what dead clusters left, in one or more regions; meant to run by a schedule.

    python flows/sweep.py --account my-team --region us-east-1 --region eu-west-1

Machines end by themselves. This removes what costs nothing but clutters (security groups, launch templates,
keys), and NAT gateways that no cluster uses, which do cost.
"""

from __future__ import annotations

import argparse

from prefect import flow

from prefect_coiled import load_account
from prefect_coiled.options import merge
from prefect_coiled.provision import sweep


@flow(name="sweep regions", log_prints=True)
def sweep_regions(account: str = "default", regions: list[str] | None = None) -> dict[str, str]:
    """Sweep an account in the regions given, or in the one of its block.

    Returns:
        What was removed, by region.
    """
    places = regions or [merge(account=load_account(account).options).options.region]
    removed: dict[str, str] = {}
    for region in places:
        removed[region] = str(sweep(account, region))
        print(f"{region}: removed {removed[region]}")
    return removed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--account", default="default")
    parser.add_argument("--region", action="append", dest="regions")
    options = parser.parse_args()
    sweep_regions(options.account, options.regions)
