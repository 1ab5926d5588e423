"""Requests that wait in the scheduler for the process of their flow."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from prefect_coiled.relay import exchange as module
from prefect_coiled.relay.exchange import Exchange

ASKED = ("GET", "/health", b"")
RELAY = {"relay": "a1", "owner": "mine"}


def answer(text: str) -> Any:
    return 200, {"content-type": "text/plain"}, text.encode()


async def opened() -> Exchange:
    exchange = Exchange()
    assert await exchange.take(**RELAY, seconds=0) == []
    return exchange


def asking(exchange: Exchange, id_: str, asked: Any = ASKED, seconds: float = 5.0) -> asyncio.Task[Any]:
    return asyncio.create_task(exchange.ask(relay="a1", id=id_, asked=asked, seconds=seconds))


async def test_what_is_asked_is_taken_and_the_answer_goes_to_who_asked() -> None:
    exchange = await opened()
    one, other = asking(exchange, "1"), asking(exchange, "2", ("POST", "/logs/", b"[]"))
    taken = await exchange.take(**RELAY)
    taken = taken + (await exchange.take(**RELAY, have=[id_ for id_, _ in taken], seconds=0.1))
    assert dict(taken) == {"1": ASKED, "2": ("POST", "/logs/", b"[]")}
    assert await exchange.give(**RELAY, answers=[("2", answer("b")), ("1", answer("a"))])
    assert (await one, await other) == (answer("a"), answer("b"))


async def test_who_takes_waits_until_something_is_asked() -> None:
    exchange = await opened()
    taking = asyncio.create_task(exchange.take(**RELAY, seconds=5.0))
    await asyncio.sleep(0)
    asked = asking(exchange, "1")
    assert await taking == [("1", ASKED)]
    await exchange.give(**RELAY, answers=[("1", answer("a"))])
    await asked


async def test_what_was_taken_and_got_lost_is_taken_again() -> None:
    exchange = await opened()
    asked = asking(exchange, "1")
    await asyncio.sleep(0)
    assert await exchange.take(**RELAY) == [("1", ASKED)]
    assert await exchange.take(**RELAY, have=["1"], seconds=0.05) == []
    assert await exchange.take(**RELAY, have=[]) == [("1", ASKED)]
    await exchange.give(**RELAY, answers=[("1", answer("a"))])
    assert await asked == answer("a")


async def test_what_is_asked_again_by_the_same_id_is_asked_once() -> None:
    exchange = await opened()
    cut_off, again = asking(exchange, "1"), asking(exchange, "1")
    await asyncio.sleep(0)
    assert await exchange.take(**RELAY) == [("1", ASKED)]
    cut_off.cancel()
    await exchange.give(**RELAY, answers=[("1", answer("a"))])
    assert await again == answer("a")
    assert await exchange.ask(relay="a1", id="1", asked=ASKED) == answer("a")
    assert await exchange.take(**RELAY, seconds=0.05) == []


async def test_nobody_else_takes_or_answers_or_ends() -> None:
    exchange = await opened()
    asked = asking(exchange, "1")
    await asyncio.sleep(0)
    assert await exchange.take(relay="a1", owner="somebody") is None
    assert not await exchange.give(relay="a1", owner="somebody", answers=[("1", answer("evil"))])
    await exchange.close_relay(relay="a1", owner="somebody")
    assert await exchange.take(**RELAY) == [("1", ASKED)]
    await exchange.give(**RELAY, answers=[("1", answer("a"))])
    assert await asked == answer("a")


async def test_a_flow_run_that_has_ended_is_not_asked_any_more() -> None:
    exchange = await opened()
    asked = asking(exchange, "1")
    await asyncio.sleep(0)
    await exchange.close_relay(**RELAY)
    status, _, words = await asked
    assert (status, words) == (410, module.OVER.encode())
    assert (await exchange.ask(relay="a1", id="2", asked=ASKED))[0] == 410
    assert (await exchange.ask(relay="b2", id="2", asked=ASKED))[0] == 410


async def test_two_flow_runs_do_not_hear_of_each_other() -> None:
    exchange = await opened()
    other = {"relay": "b2", "owner": "theirs"}
    await exchange.take(**other, seconds=0)
    asked = asking(exchange, "1")
    await asyncio.sleep(0)
    assert await exchange.take(**other, seconds=0.05) == []
    await exchange.close_relay(**other)
    assert await exchange.take(**RELAY) == [("1", ASKED)]
    await exchange.give(**RELAY, answers=[("1", answer("a"))])
    assert await asked == answer("a")


async def test_an_answer_that_does_not_come_is_told_in_words_and_asked_for_later() -> None:
    exchange = await opened()
    status, headers, words = await exchange.ask(relay="a1", id="1", asked=ASKED, seconds=0.05)
    assert (status, headers) == (503, {"Retry-After": "2"})
    assert b"did not answer" in words
    # Nobody waits for it any more.
    assert await exchange.take(**RELAY, seconds=0.05) == []


async def test_who_is_away_for_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = await opened()
    monkeypatch.setattr(module, "_AWAY", -1.0)
    exchange._boxes["a1"].seen -= 10
    status, headers, words = await exchange.ask(relay="a1", id="1", asked=ASKED, seconds=30.0)
    assert (status, headers) == (503, {"Retry-After": "2"})
    assert b"has not been heard of for 10 s" in words
    monkeypatch.setattr(module, "_GONE", 5.0)
    await exchange.ask(relay="a1", id="2", asked=ASKED)
    assert (await exchange.ask(relay="a1", id="3", asked=ASKED))[0] == 410


async def test_who_waits_for_a_process_that_dask_has_lost_waits_no_longer() -> None:
    exchange = Exchange()
    await exchange.take(**RELAY, client="Client-1", seconds=0)
    taken, waiting = asking(exchange, "1", seconds=30.0), asking(exchange, "2", seconds=30.0)
    await asyncio.sleep(0)
    await exchange.take(**RELAY)
    exchange.remove_client(None, "Client-2")
    assert not taken.done()
    exchange.remove_client(None, "Client-1")
    for one in (taken, waiting):
        status, headers, words = await asyncio.wait_for(one, 1.0)
        assert (status, headers) == (503, {"Retry-After": "2"})
        assert b"or be gone" in words
    assert (await exchange.ask(relay="a1", id="3", asked=ASKED, seconds=30.0))[0] == 503
    assert not exchange._boxes["a1"].waiting
    # It has come back.
    await exchange.take(**RELAY, client="Client-1", seconds=0)
    again = asking(exchange, "5")
    await asyncio.sleep(0)
    assert [id_ for id_, _ in await exchange.take(**RELAY)] == ["5"]
    await exchange.give(**RELAY, answers=[("5", answer("a"))])
    assert await again == answer("a")


async def test_where_too_much_waits_who_asks_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 2)
    exchange = await opened()
    asked = [asking(exchange, str(n)) for n in range(5)]
    done = 0
    while done < 5:
        taken = await exchange.take(**RELAY, seconds=1.0)
        assert 0 < len(taken) <= 2
        assert len(exchange._boxes["a1"].waiting) <= 2
        await exchange.give(**RELAY, answers=[(id_, answer(id_)) for id_, _ in taken])
        done += len(taken)
    assert [(await one)[2] for one in asked] == [b"0", b"1", b"2", b"3", b"4"]
    full = [asking(exchange, str(n), seconds=0.5) for n in range(10, 12)]
    await asyncio.sleep(0)
    assert (await exchange.ask(relay="a1", id="9", asked=ASKED, seconds=0.05))[0] == 503
    assert {(await one)[0] for one in full} == {503}


async def test_bodies_that_wait_are_bounded_and_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 100)
    monkeypatch.setattr(module, "_TAKEN_BYTES", 50)
    exchange = await opened()
    large = [asking(exchange, str(n), ("POST", "/logs/", b"x" * 40)) for n in range(4)]
    seen: list[str] = []
    while len(seen) < 4:
        taken = await exchange.take(**RELAY, seconds=1.0)
        assert len(taken) == 1
        assert exchange._boxes["a1"].size <= 100
        seen += [id_ for id_, _ in taken]
        await exchange.give(**RELAY, answers=[(taken[0][0], answer(""))])
    assert {(await one)[0] for one in large} == {200}
    assert exchange._boxes["a1"].size == 0


async def test_of_processes_that_were_killed_nothing_is_kept_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchange, now = Exchange(), [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for n in range(3):
        await exchange.take(relay=f"r{n}", owner="o", client=f"c{n}", seconds=0)
        exchange.remove_client(None, f"c{n}")  # without having closed it
    now[0] = 1000.0
    await exchange.take(relay="new", owner="o", client="c", seconds=0)
    assert list(exchange._boxes) == ["new"]
