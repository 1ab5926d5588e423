"""The Prefect API as tasks on a worker see it."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from distributed.core import Server, rpc
from distributed.security import Security
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.events.clients import PrefectEventsClient
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from prefect_coiled.relay import forwarder as module
from prefect_coiled.relay.exchange import Exchange
from prefect_coiled.relay.forwarder import Forwarder
from prefect_coiled.relay.needs import LARGEST


class Flow:
    """Where the flow's process would be: takes what is asked, and answers what it is told to."""

    def __init__(self, address: str) -> None:
        self.relay = uuid4().hex
        self.taken: list[tuple[str, str, bytes]] = []
        self.answer: Any = (200, {"content-type": "application/json"}, b'{"a": 1}')
        self._rpc = rpc(address)
        self.work = asyncio.create_task(self._work())

    async def _work(self) -> None:
        own = {"relay": self.relay, "owner": "mine"}
        while True:
            taken = await self._rpc.relay_take(**own, seconds=0.2)
            self.taken += [tuple(asked) for _, asked in taken]
            if taken:
                await self._rpc.relay_give(**own, answers=[(id_, self.answer) for id_, _ in taken])

    async def close(self) -> None:
        if self.work.done():
            return
        self.work.cancel()
        await asyncio.gather(self.work, return_exceptions=True)
        await self._rpc.relay_close(relay=self.relay, owner="mine")
        await self._rpc.close_rpc()


@pytest.fixture(scope="module")
def forwarder() -> Iterator[Forwarder]:
    made = Forwarder()
    yield made
    made.close()


@pytest.fixture
async def scheduler() -> AsyncIterator[Server]:
    server = Server({})
    await Exchange().start(server)
    await server.listen("tcp://127.0.0.1:0")
    async with server:
        yield server


@pytest.fixture
async def flow(scheduler: Server, forwarder: Forwarder) -> AsyncIterator[Flow]:
    made = Flow(scheduler.address)
    worker = SimpleNamespace(security=Security(), scheduler=SimpleNamespace(address=scheduler.address))
    await asyncio.to_thread(forwarder.open, made.relay, worker)
    yield made
    await made.close()


@pytest.fixture
async def client(flow: Flow, forwarder: Forwarder) -> AsyncIterator[httpx.AsyncClient]:
    token = base64.b64encode(forwarder.token.encode()).decode()
    headers = {"Authorization": f"Basic {token}"}
    async with httpx.AsyncClient(base_url=forwarder.url(flow.relay), headers=headers) as made:
        yield made


async def eventually(check: Any) -> None:
    for _ in range(200):
        if check():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not within 10 s")


async def test_a_request_goes_to_the_flows_process_and_its_answer_comes_back(
    flow: Flow, client: httpx.AsyncClient
) -> None:
    response = await client.post("/flow_runs/filter?limit=1", json={"b": 2})
    assert (response.status_code, response.json()) == (200, {"a": 1})
    (method, target, body) = flow.taken[0]
    assert (method, target, json.loads(body)) == ("POST", "/flow_runs/filter?limit=1", {"b": 2})


async def test_a_path_goes_as_it_came(flow: Flow, client: httpx.AsyncClient, forwarder: Forwarder) -> None:
    token = base64.b64encode(forwarder.token.encode()).decode()
    for path in ("/a/../b", "//a", "/%2e%2e/a", "/a%2fb"):
        # httpx would tidy it up.
        lines = [f"GET /{flow.relay}{path} HTTP/1.1", "Host: a", f"Authorization: Basic {token}"]
        reader, writer = await asyncio.open_connection("127.0.0.1", forwarder.port)
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        assert b" 200 " in await reader.readline()
        writer.close()
    assert [target for _, target, _ in flow.taken] == ["/a/../b", "//a", "/%2e%2e/a", "/a%2fb"]


async def test_nothing_but_what_was_asked_goes_on(flow: Flow, client: httpx.AsyncClient) -> None:
    flow.answer = 200, {"content-type": "text/plain"}, b"words"
    response = await client.get(
        "/health", headers={"X-Evil": "1", "Cookie": "a=b", "X-Forwarded-Host": "evil"}
    )
    assert response.text == "words"
    assert "server" not in response.headers
    assert flow.taken == [("GET", "/health", b"")]


@pytest.mark.parametrize("kind", ["none", "wrong", "empty", "bearer", "first half", "plain"])
async def test_who_does_not_know_the_token_asks_nothing(flow: Flow, forwarder: Forwarder, kind: str) -> None:
    token = forwarder.token
    said = {
        "none": {},
        "wrong": {"Authorization": "Basic " + base64.b64encode(b"guessed").decode()},
        "empty": {"Authorization": "Basic ="},
        "bearer": {"Authorization": "Bearer guessed"},
        "first half": {"Authorization": "Basic " + base64.b64encode(token[:20].encode()).decode()},
        "plain": {"Authorization": token},
    }[kind]
    async with httpx.AsyncClient(base_url=forwarder.url(flow.relay), headers=said) as client:
        for path in ("/health", "/csrf-token", "/events/in", "/events/out"):
            assert (await client.get(path)).status_code == 401, path
        assert (await client.post("/logs/", json=[])).status_code == 401
    assert flow.taken == []


async def test_a_browser_asks_nothing_even_with_the_token(flow: Flow, client: httpx.AsyncClient) -> None:
    response = await client.get("/health", headers={"Origin": "https://evil.example.com"})
    assert response.status_code == 401
    assert flow.taken == []


async def test_it_listens_on_the_loopback_alone(forwarder: Forwarder) -> None:
    def reaches(host: str) -> bool:
        try:
            socket.create_connection((host, forwarder.port), 0.5).close()
        except OSError:
            return False
        return True

    assert reaches("127.0.0.1")
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    assert not any(reaches(host) for host in others - {"127.0.0.1"})
    assert not reaches("127.0.0.2")


async def test_a_flow_run_that_nobody_answers_for_is_told_in_words(forwarder: Forwarder, flow: Flow) -> None:
    headers = {"Authorization": f"Bearer {forwarder.token}"}
    async with httpx.AsyncClient(headers=headers) as client:
        response = await client.get(f"{forwarder.url('abc')}/health")
        assert response.status_code == 403
        await flow.close()
        response = await client.get(f"{forwarder.url(flow.relay)}/health")
        assert response.status_code == 410
        assert "has ended" in response.json()["detail"]


async def test_a_refusal_comes_with_its_words(flow: Flow, client: httpx.AsyncClient) -> None:
    flow.answer = 403, {}, b"not for tasks"
    response = await client.get("/admin/settings")
    assert (response.status_code, response.json()) == (403, {"detail": "not for tasks"})
    flow.answer = 503, {"Retry-After": "2"}, b"later"
    response = await client.get("/health")
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")


async def test_a_body_that_is_too_large_is_not_kept_and_told_in_words(
    flow: Flow, client: httpx.AsyncClient
) -> None:
    response = await client.post("/artifacts/", content=b"x" * (LARGEST + 1))
    assert response.status_code == 413
    assert "10,000,000 bytes" in response.json()["detail"]
    response = await client.post("/artifacts/", content=b"x" * LARGEST)
    assert response.status_code == 200
    assert [len(body) for _, _, body in flow.taken] == [LARGEST]


async def test_prefects_client_asks_as_ever(flow: Flow, forwarder: Forwarder) -> None:
    flow.answer = 200, {"content-type": "application/json"}, b'"3.8.8"'
    settings = {PREFECT_API_URL: forwarder.url(flow.relay), PREFECT_API_AUTH_STRING: forwarder.token}
    with temporary_settings(settings):
        async with get_client() as client:
            assert await client.api_healthcheck() is None
            # A request that changes something: the token against forgery is not needed here.
            await client.request("POST", "/logs/", json=[])
    assert ("POST", "/logs/", b"[]") in flow.taken
    assert not any("csrf" in target for _, target, _ in flow.taken)


async def test_events_by_prefects_socket_go_as_one_request(flow: Flow, forwarder: Forwarder) -> None:
    flow.answer = 204, {}, b""
    settings = {PREFECT_API_URL: forwarder.url(flow.relay), PREFECT_API_AUTH_STRING: forwarder.token}
    with temporary_settings(settings):
        async with PrefectEventsClient() as client:
            for n in range(50):
                await client.emit(Event(event=f"e{n}", resource={"prefect.resource.id": "a"}))
    assert await asyncio.to_thread(forwarder.flush, 10.0)
    posts = [json.loads(body) for method, target, body in flow.taken if target == "/events"]
    assert [event["event"] for batch in posts for event in batch] == [f"e{n}" for n in range(50)]
    assert len(posts) < 10


async def test_events_that_lie_in_the_socket_still_are_waited_for(flow: Flow, forwarder: Forwarder) -> None:
    flow.answer = 204, {}, b""
    settings = {PREFECT_API_URL: forwarder.url(flow.relay), PREFECT_API_AUTH_STRING: forwarder.token}
    free = threading.Event()
    with temporary_settings(settings):
        async with PrefectEventsClient() as client:
            forwarder._loop.call_soon_threadsafe(free.wait, 10)  # a busy machine
            for n in range(5):
                await client.emit(Event(event=f"e{n}", resource={"prefect.resource.id": "a"}))
            settled = asyncio.run_coroutine_threadsafe(forwarder._settle(10.0), forwarder._loop)
            free.set()
            assert await asyncio.wrap_future(settled)
            posts = [json.loads(body) for _, target, body in flow.taken if target == "/events"]
            assert [event["event"] for batch in posts for event in batch] == [f"e{n}" for n in range(5)]


async def test_a_socket_without_the_token_is_refused(flow: Flow, forwarder: Forwarder) -> None:
    settings = {PREFECT_API_URL: forwarder.url(flow.relay), PREFECT_API_AUTH_STRING: "guessed"}
    with temporary_settings(settings), pytest.raises(Exception, match="401"):
        async with PrefectEventsClient(reconnection_attempts=0):
            pass
    assert not [one for one in flow.taken if one[1] == "/events"]


def test_an_address_leads_to_its_relay_where_it_is_this_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_here", SimpleNamespace(port=1234))
    assert module.relay_of("http://127.0.0.1:1234/abc") == "abc"
    assert module.relay_of("http://127.0.0.1:1234/abc/flow_runs/") == "abc"
    assert module.relay_of("http://127.0.0.1:12345/abc") == ""
    assert module.relay_of("https://api.prefect.cloud/api") == ""
    monkeypatch.setattr(module, "_here", None)
    assert module.relay_of("http://127.0.0.1:1234/abc") == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"HTTPS_PROXY": "http://p:1"}, {"NO_PROXY": "127.0.0.1"}),
        ({"http_proxy": "http://p:1", "no_proxy": "a"}, {"no_proxy": "a,127.0.0.1"}),
        ({"http_proxy": "http://p:1", "NO_PROXY": "a"}, {"NO_PROXY": "a,127.0.0.1"}),
        ({"http_proxy": "http://p:1", "NO_PROXY": "*"}, {"NO_PROXY": "*"}),
        (
            {"http_proxy": "http://p:1", "NO_PROXY": "a", "no_proxy": "a, *"},
            {"NO_PROXY": "a,127.0.0.1", "no_proxy": "a, *"},
        ),
    ],
)
def test_a_machine_behind_a_proxy_reaches_itself_without(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: dict[str, str]
) -> None:
    import os

    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    # What is set below goes as the test ends.
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    module._past_proxies()
    assert {n: v for n, v in os.environ.items() if n.lower() == "no_proxy"} == expected
