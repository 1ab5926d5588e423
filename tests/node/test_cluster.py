"""A scheduler and two workers, driven over the network as a client would."""

import asyncio
import os
import socket
import ssl
import stat
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from distributed import get_client
from distributed.comm import connect, listen
from distributed.security import Security

from prefect_coiled.plan.certificates import ClusterCertificates
from tests.node.conftest import CANARY, TOKEN, until

PAGES = [
    "/",
    "/status",
    "/info/main/workers.html",
    "/metrics",
    "/health",
    "/api/v1/retire_workers",
    "/nothing",
]


@pytest.fixture(scope="module")
def client(shared):
    with shared.client() as client:
        client.wait_for_workers(2, timeout=300)
        yield client


def test_workers_join_by_mutual_tls_and_compute(shared, client):
    assert sum(client.gather(client.map(lambda x: x * x, range(50)))) == sum(x * x for x in range(50))
    workers = client.scheduler_info(n_workers=-1)["workers"]
    assert {w["name"] for w in workers.values()} == {n.instance_id for n in shared.nodes[1:]}
    assert all(address.startswith("tls://127.77.") for address in workers)
    assert all(w["resources"] == {"THING": 2} for w in workers.values())


def test_environ_and_dask_config_arrive_and_cannot_switch_encryption_off(client):
    def look():
        import dask

        return (
            os.environ["NODE_TEST_VALUE"],
            os.environ["AWS_DEFAULT_REGION"],
            dask.config.get("distributed.worker.profile.interval"),
            dask.config.get("distributed.comm.require-encryption"),
        )

    for found in [*client.run(look).values(), client.run_on_scheduler(look)]:
        assert found == (CANARY, "us-east-1", "123ms", True)


def test_a_task_reaches_the_scheduler_with_the_clusters_keys(shared, client):
    address = shared.address

    def inside():
        from distributed import Client

        first = get_client().submit(lambda: 1, pure=False).result()
        with Client(address, timeout=10) as other:
            return first + len(other.scheduler_info(n_workers=-1)["workers"])

    assert client.submit(inside, pure=False).result(timeout=300) == 3


def test_clients_and_cluster_objects_count_as_connected_and_clients_of_tasks_do_not(shared, client):
    def count():
        return client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.connected())

    async def subscribed():
        arguments = shared.security().get_connection_args("client")
        comms = [await connect(shared.address, **arguments) for _ in range(2)]
        for comm in comms:
            await comm.write({"op": "subscribe_worker_status"})
            assert len((await comm.read())["workers"]) == 2
        found = await asyncio.to_thread(count)
        for comm in comms:
            await comm.close()
        return found

    def inside():
        client = get_client()
        return client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.connected())

    until(lambda: count() == 1, 10, "one client")
    assert client.submit(inside, pure=False).result(timeout=300) == 1
    assert asyncio.run(subscribed()) == 3
    until(lambda: count() == 1, 10, "one client again")


def test_everything_listens_on_the_nodes_own_address_and_only_with_tls(shared):
    for node in shared.nodes:
        listening = _listening(node)
        assert listening
        for address, port in listening:
            assert address in (node.address, "127.0.0.1"), (address, port)
            with socket.create_connection((address, port), timeout=5) as raw:
                raw.settimeout(5)
                raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                with suppress(OSError):
                    assert b"HTTP/1" not in raw.recv(100)


def test_keys_are_readable_by_the_node_alone_and_the_spill_directory_is_its_own(shared, client):
    def look():
        import dask

        return dask.config.get("distributed.comm.tls.worker.key"), os.getcwd()

    def where(dask_worker):
        return dask_worker.local_directory

    for node in shared.nodes[1:]:
        keys = list(Path(node.directory, "tmp").glob("*/key.pem"))
        assert [stat.S_IMODE(key.stat().st_mode) for key in keys] == [0o600]
        assert stat.S_IMODE(keys[0].parent.stat().st_mode) == 0o700
    directories = client.run(where).values()
    assert all(any(str(n.directory) in d for n in shared.nodes) for d in directories)


def test_lines_of_the_nodes_reach_their_streams_and_their_consoles(shared, client):
    def speak(dask_worker):
        print(f"hello from {dask_worker.name}\nand more", flush=True)

    client.run(speak)
    for node in shared.nodes[1:]:
        text = f"hello from {node.instance_id}"
        until(lambda text=text, node=node: text in shared.log(node), 10, text)
        assert text in node.console
    until(lambda: "Scheduler at:" in shared.log(shared.scheduler), 10)
    assert shared.scheduler.console.count("Scheduler at:") == 1


def test_no_secret_is_printed(shared):
    for node in shared.nodes:
        for text in (node.console, shared.log(node), node.config.to_json()):
            assert "PRIVATE KEY" not in text
            assert CANARY not in text
            assert TOKEN not in text


def test_no_secret_is_in_the_arguments_of_a_process(shared):
    told = [process.info["cmdline"] or () for process in psutil.process_iter(["cmdline"])]
    assert any("prefect_coiled" in word for words in told for word in words)
    assert not [words for words in told for word in words if CANARY in word or TOKEN in word]


def test_instance_metadata_is_asked_with_a_token_only(shared):
    assert [node.metadata.refused for node in shared.nodes] == [0, 0, 0]


async def _try(address, **arguments):
    comm = await connect(address, timeout=4, **arguments)
    await comm.close()


async def test_a_client_certificate_opens_the_scheduler_and_nothing_else_does(shared):
    address = shared.address
    await _try(address, **shared.security().get_connection_args("client"))

    other = ClusterCertificates.make(shared.name, shared.certificates.not_after.replace(year=2026))
    for security in (
        shared.security(other.client, other.ca),
        shared.security(other.client),
        shared.security(ca=other.ca),
    ):
        with pytest.raises(OSError):  # noqa: PT011
            await _try(address, **security.get_connection_args("client"))
    bare = ssl.create_default_context(cadata=shared.certificates.ca)
    bare.check_hostname = False
    with pytest.raises(OSError):  # noqa: PT011
        await _try(address, ssl_context=bare)
    with pytest.raises(OSError):  # noqa: PT011
        await _try(address.replace("tls://", "tcp://"))


async def test_a_client_certificate_cannot_serve(shared):
    pair = shared.certificates.client
    security = Security(
        tls_ca_file=shared.certificates.ca,
        tls_worker_cert=pair.cert,
        tls_worker_key=pair.key,
        require_encryption=True,
    )

    async def serve(comm):
        await comm.close()

    async with listen("tls://127.0.0.1:0", serve, **security.get_listen_args("worker")) as listener:
        with pytest.raises(OSError, match=r"(?i)certificate|purpose|closed"):
            await _try(listener.contact_address, **shared.security().get_connection_args("client"))


def _get(shared, page, headers=None, scheme="https", redirect=False):
    context = ssl.create_default_context(cadata=shared.certificates.ca)
    context.check_hostname = False

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args):
            return None

    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), Stay())
    url = f"{scheme}://{shared.scheduler.address}:8787{page}"
    try:
        return opener.open(urllib.request.Request(url, headers=headers or {}), timeout=10)
    except urllib.error.HTTPError as error:
        return error


def _cookie(shared):
    reply = _get(shared, f"/status?token={TOKEN}")
    assert reply.status == 302
    return reply.headers["Set-Cookie"].split(";")[0]


@pytest.mark.parametrize("page", PAGES)
def test_the_dashboard_is_refused_without_its_token(shared, page):
    with pytest.raises(OSError):  # noqa: PT011
        _get(shared, page, scheme="http")
    assert _get(shared, page).status == 401
    assert _get(shared, f"{page}?token=wrong").status == 401
    assert _get(shared, f"{page}?token=").status == 401
    assert _get(shared, page, {"Cookie": "__Host-prefect-coiled-8787=wrong"}).status == 401
    assert _get(shared, page, {"Authorization": "Bearer wrong"}).status == 401


@pytest.mark.parametrize("page", ["/status", "/info/main/workers.html", "/metrics", "/health"])
def test_the_dashboard_opens_with_the_cookie_and_with_a_bearer_token(shared, page):
    assert _get(shared, page, {"Cookie": _cookie(shared)}).status == 200
    assert _get(shared, page, {"Authorization": f"Bearer {TOKEN}"}).status == 200


def test_the_first_visit_moves_the_token_from_the_address_into_a_safe_cookie(shared):
    reply = _get(shared, f"/status?a=1&token={TOKEN}&b=")
    assert (reply.status, reply.headers["Location"]) == (302, "/status?a=1&b=")
    cookie = reply.headers["Set-Cookie"]
    assert all(word in cookie for word in ("HttpOnly", "Secure", "SameSite=Lax", "Path=/"))
    assert TOKEN not in cookie
    assert _get(shared, f"//elsewhere.example/?token={TOKEN}").headers["Location"] == "/elsewhere.example/"


async def test_the_websocket_of_a_page_works_with_the_cookie_and_is_refused_without(shared):
    import re

    from tornado.httpclient import HTTPClientError, HTTPRequest
    from tornado.websocket import websocket_connect

    cookie = await asyncio.to_thread(_cookie, shared)
    page = (await asyncio.to_thread(lambda: _get(shared, "/status", {"Cookie": cookie}).read())).decode()
    session = re.search(r'"token":"([^"]+)"', page)[1]
    context = ssl.create_default_context(cadata=shared.certificates.ca)
    context.check_hostname = False

    def request(headers):
        url = f"wss://{shared.scheduler.address}:8787/status/ws"
        return HTTPRequest(url, headers=headers, ssl_options=context, connect_timeout=10)

    with pytest.raises(HTTPClientError) as refused:
        await websocket_connect(request({}), subprotocols=["bokeh", session])
    assert refused.value.code == 401
    socket_ = await websocket_connect(request({"Cookie": cookie}), subprotocols=["bokeh", session])
    message = await asyncio.wait_for(socket_.read_message(), 10)
    assert "ACK" in message or "msgid" in message
    socket_.close()


def _listening(node):
    """(address, port) of the TCP sockets on which the node's processes listen."""
    inodes = set()
    for pid in node.descendants():
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(fd)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table, width in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                host, port = fields[1].split(":")
                assert width == 8, f"listens on IPv6: {host}"
                found.add((socket.inet_ntoa(bytes.fromhex(host)[::-1]), int(port, 16)))
    return found
