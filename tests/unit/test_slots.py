"""Whoever waits for a slot of an account's limit waits for an API that does not answer, too."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest

from prefect_coiled.errors import NoAnswerError
from prefect_coiled.provision import slots

LEASE = uuid4()


class Api:
    """An API that answers as it is told to, one thing for each slot that is asked for."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *error: Any) -> None: ...

    def read_global_concurrency_limit_by_name(self, name: str) -> Any:
        return SimpleNamespace(active=True, limit=1, active_slots=0)

    def increment_concurrency_slots_with_lease(self, *args: Any) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(json=lambda: {"lease_id": str(LEASE)})

    def renew_concurrency_lease(self, *args: Any) -> None: ...

    def release_concurrency_slots_with_lease(self, lease_id: Any) -> None: ...


def status(code: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://api/")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(code, request=request))


def take(
    monkeypatch: pytest.MonkeyPatch,
    api: Api,
    seconds: float = 1.0,
    running: Callable[[], int] = lambda: 0,
) -> Any:
    times = iter(range(1000))
    monkeypatch.setattr(slots, "get_client", lambda **_: api)
    monkeypatch.setattr(slots, "TRY_AGAIN", 0.0)
    return slots.take_slot("team", running, stop=threading.Event(), clock=lambda: seconds * next(times))


def test_an_api_that_is_busy_or_gone_for_a_while_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(status(503), httpx.ConnectError("gone"), status(423), status(500), None)
    slot = take(monkeypatch, api)
    assert slot.lease_id == LEASE
    slot.release()


def test_aws_that_does_not_answer_for_a_while_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, None, 0])

    def running() -> int:
        if (found := next(answers, None)) is None:
            raise NoAnswerError("finding instances (team)", "the laptop slept", "Check the network.")
        return found

    slot = take(monkeypatch, Api(None), running=running)
    assert slot.lease_id == LEASE
    slot.release()
    with pytest.raises(NoAnswerError):
        take(monkeypatch, Api(None), seconds=60.0, running=running)


@pytest.mark.parametrize("code", [401, 403, 422])
def test_a_refusal_is_told_at_once(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    api = Api(status(code), None)
    with pytest.raises(httpx.HTTPStatusError):
        take(monkeypatch, api)
    assert len(api.answers) == 1


def test_an_api_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(httpx.ConnectError):
        take(monkeypatch, Api(*[httpx.ConnectError("gone")] * 100), seconds=30.0)


def test_a_slot_that_nobody_holds_is_given_back_once_the_api_is_there_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    class Anew(Api):
        def renew_concurrency_lease(self, *args: Any) -> None:
            asked.append("renew")
            raise status(410)

        def release_concurrency_slots(self, *args: Any) -> None:
            asked.append("release")
            if asked.count("release") == 1:
                raise httpx.ConnectError("away")

    slot, api = slots.Slot("limit", LEASE), Anew(None)
    monkeypatch.setattr(slots, "get_client", lambda **_: api)
    with pytest.raises(httpx.ConnectError):
        slot._renew(api)  # type: ignore[arg-type]
    slot._renew(api)  # type: ignore[arg-type]
    assert (asked, api.answers) == (["renew", "release", "release"], [])
    slot.release()


class Restarted(Api):
    """An API that was started anew: it counts a slot, and says nothing of a lease that it does not know."""

    def __init__(self, away: int = 0) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.away = away

    def renew_concurrency_lease(self, *args: Any) -> None:
        if self.away:
            self.away -= 1
            raise httpx.ConnectError("away")
        self.asked.append("renew")
        raise status(410)

    def release_concurrency_slots_with_lease(self, lease_id: Any) -> None:
        self.asked.append("release the lease")

    def release_concurrency_slots(self, *args: Any) -> None:
        self.asked.append("release the slot")


@pytest.mark.parametrize("away", [0, 2])
def test_a_slot_is_given_back_to_an_api_that_has_lost_its_lease(
    away: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Restarted(away)
    monkeypatch.setattr(slots, "get_client", lambda **_: api)
    monkeypatch.setattr(slots, "_PAUSE", 0.0)
    slot = slots.Slot("limit", LEASE)
    slot.release()
    slot.release()
    assert api.asked == ["renew", "release the slot"]


def test_a_lease_that_ran_out_takes_no_slot_of_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    api, times = Restarted(), iter([0.0, *[1000.0] * 100])
    monkeypatch.setattr(slots, "get_client", lambda **_: api)
    slots.Slot("limit", LEASE, clock=lambda: next(times)).release()
    assert api.asked == ["renew"]
