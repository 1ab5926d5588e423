"""Results of tasks in the account's bucket: on a machine by its role, elsewhere by the account's keys."""

from __future__ import annotations

import functools
import os

from prefect_coiled.aws.bucket import put_file, read_file
from prefect_coiled.aws.door import Aws
from prefect_coiled.internals.botocore import session_of_role
from prefect_coiled.plan.machine_policies import RESULTS
from prefect_coiled.plan.node_config import ENDPOINT_VARIABLE, MACHINE_VARIABLE


def on_machine() -> bool:
    """Whether this process is of a machine of a cluster."""
    return MACHINE_VARIABLE in os.environ


@functools.cache
def machine_door(account: str, region: str) -> Aws:
    """The door that a machine has by its role, whatever keys tasks have."""
    endpoint = os.environ.get(ENDPOINT_VARIABLE) or None
    return Aws(session_of_role(region), region, account, endpoint_url=endpoint)


def write_result(aws: Aws, bucket: str, path: str, content: bytes) -> None:
    """Write a result."""
    put_file(aws, bucket, f"{RESULTS}{path}", content)


def read_result(aws: Aws, bucket: str, path: str) -> bytes | None:
    """Read a result; None if it is not there."""
    return read_file(aws, bucket, f"{RESULTS}{path}")
