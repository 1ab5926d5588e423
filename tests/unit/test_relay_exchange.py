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


async def test_no_more_is_taken_than_was_asked_for_and_the_rest_later_in_its_order() -> None:
    exchange = await opened()
    asked = [asking(exchange, str(n)) for n in range(5)]
    await asyncio.sleep(0)
    assert await exchange.take(**RELAY, most=0, seconds=0.0) == []
    first = await exchange.take(**RELAY, most=2)
    assert [id_ for id_, _ in first] == ["0", "1"]
    rest = await exchange.take(**RELAY, have=["0", "1"], most=9)
    assert [id_ for id_, _ in rest] == ["2", "3", "4"]
    await exchange.give(**RELAY, answers=[(str(n), answer(str(n))) for n in range(5)])
    assert [(await one)[2] for one in asked] == [b"0", b"1", b"2", b"3", b"4"]


async def test_what_nobody_would_wait_for_until_it_is_answered_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchange, now = await opened(), [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    early = asking(exchange, "early", seconds=45.0)
    await asyncio.sleep(0)
    now[0] = 30.0
    late = asking(exchange, "late", seconds=45.0)
    await asyncio.sleep(0)
    now[0] = 40.0
    assert [id_ for id_, _ in await exchange.take(**RELAY)] == ["late"]
    # Somebody asks for it again, whose connection broke.
    again = asking(exchange, "early", seconds=45.0)
    await asyncio.sleep(0)
    assert [id_ for id_, _ in await exchange.take(**RELAY, have=["late"])] == ["early"]
    await exchange.give(**RELAY, answers=[("early", answer("a")), ("late", answer("b"))])
    assert [await one for one in (early, again, late)] == [answer("a"), answer("a"), answer("b")]


async def test_an_answer_wakes_nobody_but_who_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = await opened()
    asked = [asking(exchange, str(n)) for n in range(1_500)]
    await asyncio.sleep(0)
    await exchange.take(**RELAY)
    loop, woken = asyncio.get_running_loop(), []
    call_soon = loop.call_soon

    def counted(what: Any, *args: Any, **kwargs: Any) -> Any:
        woken.append(what)
        return call_soon(what, *args, **kwargs)

    monkeypatch.setattr(loop, "call_soon", counted)
    await exchange.give(**RELAY, answers=[("0", answer("a"))])
    assert await asked[0] == answer("a")
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(woken) < 30
    await exchange.close_relay(**RELAY)
    assert {(await one)[0] for one in asked[1:]} == {410}


async def test_bodies_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TAKEN_BYTES", 50)
    exchange = await opened()
    large = [asking(exchange, str(n), ("POST", "/logs/", b"x" * 40)) for n in range(4)]
    seen: list[str] = []
    while len(seen) < 4:
        taken = await exchange.take(**RELAY, have=seen, seconds=1.0)
        assert len(taken) == 1
        seen += [id_ for id_, _ in taken]
    await exchange.give(**RELAY, answers=[(id_, answer("")) for id_ in seen])
    assert {(await one)[0] for one in large} == {200}


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
