"""Credentials that a client lends: as long as it says so, and to whoever has the token of the machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from prefect_coiled.node.lent import LEASE_S, Counter, Lent


def credentials(minutes: float = 60.0) -> dict[str, str]:
    end = datetime.now(timezone.utc) + timedelta(minutes=minutes)
    told = {"AccessKeyId": "ASIAX", "SecretAccessKey": "hidden", "Token": "t"}
    return {**told, "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ")}


def test_what_is_lent_is_given_while_the_lender_says_so() -> None:
    lent, given = Lent(), credentials()
    assert lent.give(0.0) == {}
    lent.take(0.0, given)
    assert lent.give(LEASE_S) == given
    assert lent.give(LEASE_S + 1) == {}
    lent.take(1000.0, given)
    assert lent.give(1001.0) == given
    lent.take(1002.0, None)
    assert lent.give(1003.0) == {}


def test_what_has_ended_is_given_to_nobody() -> None:
    lent = Lent()
    lent.take(0.0, credentials(minutes=-1))
    assert lent.give(1.0) == {}


def test_only_credentials_are_taken() -> None:
    with pytest.raises(ValueError, match="no credentials"):
        Lent().take(0.0, {"AccessKeyId": "ASIAX"})


def ask(found: Mapping[str, str] | OSError, headers: dict[str, str]) -> httpx.Response:
    async def live() -> httpx.Response:
        async def lent() -> Mapping[str, str]:
            if isinstance(found, OSError):
                raise found
            return found

        counter = Counter(lent)
        token = counter.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
        given = {name: value.replace("TOKEN", token) for name, value in headers.items()}
        try:
            async with httpx.AsyncClient() as client:
                return await client.get(counter.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"], headers=given)
        finally:
            counter.close()

    return asyncio.run(live())


def test_whoever_has_the_token_gets_what_is_lent() -> None:
    given = credentials()
    assert ask(given, {"Authorization": "TOKEN"}).json() == given


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": ""}, {"Authorization": "TOKENx"}, {"Authorization": "TOKEN", "Host": "evil.test"}],
)
def test_nobody_else_does(headers: dict[str, str]) -> None:
    answer = ask(credentials(), headers)
    assert answer.status_code == 403
    assert "hidden" not in answer.text


@pytest.mark.parametrize(("found", "status"), [({}, 404), (OSError("away"), 503)])
def test_where_nothing_is_lent_that_is_said(found: Any, status: int) -> None:
    answer = ask(found, {"Authorization": "TOKEN"})
    assert answer.status_code == status
    assert "message" in answer.json()
