"""Deploy from Python: served by this process, or given to a work pool.

    python flows/serve.py --account my-team --folder s3://my-bucket/flights
    python flows/serve.py --account my-team --folder s3://my-bucket/flights --pool dask-ec2

Without a pool this process runs what is due, and pauses its schedules when it ends. With one it returns at
once, and the pool's worker runs them.
"""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect import flow, serve

sys.path.insert(0, str(Path(__file__).parent))
try:
    from nightly import nightly_report
except ModuleNotFoundError as lacking:
    sys.exit(f'The nightly report needs {lacking.name}: run `pip install ".[dataframe]"` in the checkout.')
from sweep import sweep_regions

ROOT = Path(__file__).parent.parent


def serve_here(account: str, folder: str) -> None:
    """Serve the nightly report and the hourly sweep from this process, until it is stopped."""
    serve(
        nightly_report.to_deployment(
            "nightly-flights",
            cron="30 5 * * *",
            parameters={"folder": folder, "cluster": {"account": account, "n_workers": 10}},
        ),
        sweep_regions.to_deployment("hourly-sweep", interval=3600, parameters={"account": account}),
    )


def deploy_to(pool: str, account: str, folder: str, every: timedelta = timedelta(days=1), **more: Any) -> str:
    """Give the nightly report to a work pool; the account comes from the environment of its runs.

    Returns:
        The deployment's id.
    """
    source = flow.from_source(str(ROOT), "flows/nightly.py:nightly_report")
    made = source.deploy(
        "nightly-flights",
        work_pool_name=pool,
        interval=every,
        parameters={"folder": folder, "cluster": {"n_workers": 10}},
        job_variables={"env": {"PREFECT_COILED_CLUSTER__ACCOUNT": account}},
        print_next_steps=False,
        **more,
    )
    return str(made)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--account", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--pool", help="name of a work pool")
    options = parser.parse_args()
    if options.pool:
        print(deploy_to(options.pool, options.account, options.folder))
    else:
        serve_here(options.account, options.folder)
