"""Reads what the schedulers of an account's clusters wrote down of costs; also of clusters that are gone."""

from __future__ import annotations

from datetime import datetime, timedelta

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.log_events import read_prefixed
from prefect_coiled.plan.spending import LATER_S, STREAMS, CostRecord, Known


def find_records(aws: Aws, since: datetime, now: datetime) -> list[Known]:
    """The records of all clusters of an account in a region from then on; none where it is not set up.

    Raises:
        AwsError: If AWS does not give them.
    """
    # With the record before, where it is near: what was spent at the beginning is known from both.
    begin = since - timedelta(seconds=2 * LATER_S)
    read = (CostRecord.decode(line, now) for line in read_prefixed(aws, STREAMS, since=begin))
    return [Known(aws.account, aws.region, record) for record in read if record is not None]
