"""Clients of AWS on a machine. Credentials are those of the machine's own role."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def _session() -> Any:
    import botocore.session  # boto3 on top of it would cost as much again, at every boot

    return botocore.session.get_session()


def _config(**more: Any) -> Any:
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": 2}
    return Config(connect_timeout=5, read_timeout=20, retries=retries, **more)


def client(service: str, region: str) -> Any:
    """A client of an AWS service, for a process whose environment is the machine's own."""
    return _session().create_client(service, region_name=region, config=_config())


def own_client(service: str, region: str, endpoint: str = "") -> Any:
    """The same for a process that has the user's environment, where keys, profiles and addresses may be his.

    Args:
        endpoint: Where the service is, if it is not at AWS.
    """
    from prefect_coiled.internals.botocore import role_alone

    config = _config(ignore_configured_endpoint_urls=True)
    return role_alone().create_client(
        service, region_name=region, endpoint_url=endpoint or None, config=config
    )
