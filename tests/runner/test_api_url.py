"""A remote cluster needs a Prefect API that its machines can reach."""

from __future__ import annotations

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_coiled.errors import OptionsError
from prefect_coiled.task_runner.api_url import check_api_url, is_loopback

LOOPBACK = [
    "http://127.0.0.1:4200/api",
    "http://127.8.8.8/api",
    "http://localhost:4200/api",
    "http://LOCALHOST./api",
    "http://[::1]:4200/api",
    "http://0.0.0.0:4200/api",
]


@pytest.mark.parametrize("url", LOOPBACK)
def test_a_loopback_api_is_refused_for_a_remote_cluster(url: str) -> None:
    with temporary_settings({PREFECT_API_URL: url}):
        with pytest.raises(OptionsError, match="an address of this machine alone"):
            check_api_url(shares_loopback=False)
        check_api_url(shares_loopback=True)


def test_an_unset_api_is_refused_for_a_remote_cluster() -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        with pytest.raises(OptionsError, match="PREFECT_API_URL is not set"):
            check_api_url(shares_loopback=False)
        check_api_url(shares_loopback=True)


@pytest.mark.parametrize("url", ["https://api.prefect.cloud/api/accounts/a", "http://10.0.0.5:4200/api"])
def test_a_reachable_api_is_accepted(url: str) -> None:
    with temporary_settings({PREFECT_API_URL: url}):
        check_api_url(shares_loopback=False)
    assert not is_loopback(url)
