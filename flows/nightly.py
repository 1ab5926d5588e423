"""The report on late flights, to be deployed: every night on a cluster of its own, or by day on a shared one.

    python flows/nightly.py --folder s3://my-bucket/flights

Which account, how many workers, which machines: by the parameter `cluster`, so that each deployment of
`prefect.yaml` says it for itself.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
from prefect import flow, unmapped
from prefect.artifacts import create_table_artifact

from prefect_coiled import ClusterSettings, CoiledTaskRunner

sys.path.insert(0, str(Path(__file__).parent))
from quickstart import delays_of_month


@flow(name="nightly flights", task_runner=CoiledTaskRunner(n_workers=2), log_prints=True)
def nightly_report(folder: str, cluster: ClusterSettings = ClusterSettings()) -> dict[str, float]:
    """Mean departure delay by carrier, in minutes, the worst first; also as a table in the Prefect UI.

    Args:
        folder: Where `flights.put_flights` put the data, such as "s3://my-bucket/flights".
        cluster: What this run wants of its cluster.
    """
    months = delays_of_month.map(unmapped(folder), list(range(1, 13)))
    means = pd.concat(months.result()).groupby("carrier")["dep_delay"].mean().round(1)
    worst = means.sort_values(ascending=False).to_dict()
    rows = [{"carrier": carrier, "minutes late": late} for carrier, late in worst.items()]
    create_table_artifact(key="late-flights", table=rows, description="Mean departure delay by carrier.")
    print(f"{len(rows)} carriers, the latest: {rows[0]['carrier']}")
    return {str(carrier): float(late) for carrier, late in worst.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", required=True)
    nightly_report(parser.parse_args().folder)
