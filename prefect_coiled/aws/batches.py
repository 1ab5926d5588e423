"""How many ids a call takes: longer lists go in several calls. Decides nothing but that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prefect_coiled.aws.door import Aws

# Values of all filters of one call together; one more is answered with FilterLimitExceeded.
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html
FILTER_VALUES = 200
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html
INSTANCE_TYPES = 100
# AWS recommends batches, and one bad id fails a whole call.
TERMINATED_AT_ONCE = 500
# https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
OBJECTS = 1000
# https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_DeleteParameters.html
PARAMETERS = 10
# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html
STREAMS = 100


def batches(values: Iterable[str], size: int) -> Iterator[list[str]]:
    """The values in their order, in lists of at most `size`."""
    listed = list(values)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


def pages_of(
    aws: Aws, action: str, what: str, key: str, name: str, values: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Yield what a listing call shows of resources named by one filter, however many there are.

    Args:
        key: Where the items are in a page.

    Raises:
        AwsError: As `Aws.call` does.
    """
    for some in batches(values, FILTER_VALUES):
        yield from aws.pages(action, what, key, Filters=[{"Name": name, "Values": some}])
