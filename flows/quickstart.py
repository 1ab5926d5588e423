"""How late do flights leave New York? A flow on a Dask cluster, the answer computed twice.

    python flows/quickstart.py                                       in the sandbox on this machine
    python flows/quickstart.py --account my-team --data s3://mine    in AWS

Once by mapped Prefect tasks, one for each month; once by a `dask.dataframe` over the same S3 folder. Both
must agree with pandas on the whole file.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import pandas as pd
from prefect import flow, task, unmapped
from prefect_dask import get_dask_client

from prefect_coiled import CoiledTaskRunner, load_account
from prefect_coiled.errors import PrefectCoiledError
from prefect_coiled.options.keywords import refuse_variables

sys.path.insert(0, str(Path(__file__).parent))
from flights import mean_delays, put_flights, read_flights


@task(retries=1, task_run_name="month {month}")
def delays_of_month(folder: str, month: int) -> pd.DataFrame:
    """Mean delays of one month, from its Parquet part."""
    part = pd.read_parquet(f"{folder}/parquet/{month:02}.parquet", columns=["month", "carrier", "dep_delay"])
    mean = part.groupby(["carrier", "month"], as_index=False)["dep_delay"].mean()
    return mean


@task(task_run_name="whole year")
def delays_by_dataframe(folder: str) -> pd.DataFrame:
    """The same for all months at once: a Dask dataframe over the CSV parts, computed by the whole cluster."""
    import dask.dataframe as dd

    with get_dask_client() as client:
        flights = dd.read_csv(
            f"{folder}/csv/*.csv", usecols=["month", "carrier", "dep_delay"], blocksize="4 MiB"
        )
        mean = flights.groupby(["carrier", "month"])["dep_delay"].mean().reset_index()
        return client.compute(mean).result()


@flow(name="flight delays", task_runner=CoiledTaskRunner(n_workers=2))
def flight_delays(folder: str) -> pd.DataFrame:
    """Mean departure delay by carrier and month, in minutes."""
    year = delays_by_dataframe.submit(folder)
    months = delays_of_month.map(unmapped(folder), list(range(1, 13)))
    by_tasks = pd.concat(months.result()).sort_values(["carrier", "month"], ignore_index=True)
    by_dataframe = year.result().sort_values(["carrier", "month"], ignore_index=True)
    pd.testing.assert_frame_equal(by_tasks, by_dataframe, check_dtype=False)
    show(by_tasks)
    return by_tasks


def show(delays: pd.DataFrame) -> None:
    """Print the table, before the cluster is removed and its cost is known."""
    # Not by a console of rich's: it would write over the board, which moves what is printed above itself.
    print("\nMean departure delay in minutes, by carrier and month:")
    table = delays.pivot(index="carrier", columns="month", values="dep_delay").round(1)
    print(table.to_string(na_rep="-"), "\n")


def main() -> None:
    """Run the flow with progress shown, and check its answer."""
    from rich.console import Console

    from prefect_coiled.progress import live_board

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--account", help="slug of an account block; by default the sandbox")
    parser.add_argument("--data", default="s3://flights", help="bucket to put the data into")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    console = Console()
    begun = time.monotonic()

    # What is said here holds: a deployment's variables would lead the cluster to another account.
    refuse_variables("the quickstart", os.environ)
    account = load_account(options.account)
    if account.is_sandbox:
        from prefect_coiled.sandbox import ensure_started

        os.environ.update(ensure_started().environment())
    elif options.account is None:
        raise PrefectCoiledError(
            "the quickstart",
            f"account {account.slug} is not the sandbox.",
            f"Name it, with a bucket: --account {account.slug} --data s3://BUCKET.",
        )
    flights = read_flights()
    folder = put_flights(options.data.removeprefix("s3://"), flights)
    console.print(f"{len(flights):,} flights in {folder}")

    runner = CoiledTaskRunner(n_workers=options.workers, account=account.slug)
    with live_board(console):
        answer = flight_delays.with_options(task_runner=runner)(folder)
    pd.testing.assert_frame_equal(answer, mean_delays(flights), check_dtype=False)
    console.print(f"\nThe table is what pandas makes of all {len(flights):,} flights at once.")
    console.print(f"{time.monotonic() - begun:.1f} seconds from nothing to the answer and back to nothing.")


if __name__ == "__main__":
    try:
        main()
    except PrefectCoiledError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted. The cluster is removed; `prefect-coiled ls` says what there is.")
