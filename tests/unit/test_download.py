"""Files of packages come whole, or not at all: what breaks off is tried again, and said if it stays so."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import nturl2path
import struct
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_coiled.environment import contents, fetch, sites
from prefect_coiled.environment.download import download
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.records import Wheel
from prefect_coiled.errors import OptionsError
from prefect_coiled.node.packages import as_recorded

BODY = b"x" * 100_000
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Index:
    """An index on the loopback that gives each of its answers once, and the last one for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.asked = 0
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                index.asked += 1
                answers[min(index.asked, len(answers)) - 1](self)
                self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wheel(self, sha256: str = "", file: str = "a-1.tar.gz") -> Wheel:
        url = f"http://127.0.0.1:{self.server.server_port}/a"
        return Wheel(name="a", version="1", file=file, sha256=sha256, url=url)


@pytest.fixture
def index() -> Iterator[Callable[..., Index]]:
    made: list[Index] = []

    def make(*answers: Answer) -> Index:
        made.append(Index(*answers))
        return made[-1]

    yield make
    for one in made:
        one.server.shutdown()
        one.server.server_close()


def test_a_wheel_that_is_not_what_its_record_says_is_refused(
    index: Callable[..., Index], tmp_path: Path
) -> None:
    genuine, evil = b"x = 1\n", b"import os\n"
    told = as_recorded(hashlib.sha256(genuine).digest())
    for files, wrong in (
        ([("a.py", genuine)], ""),
        ([("a.py", evil)], "a.py is not what its RECORD says"),
        ([("a.py", genuine), ("a.py", evil)], "a file is twice in it"),
    ):
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for name, content in (*files, ("a-1.dist-info/RECORD", f"a.py,sha256={told},6\n".encode())):
                archive.writestr(name, content)
        body = made.getvalue()
        given = index(lambda h, body=body: answer(h, body))
        wheel = given.wheel(hashlib.sha256(body).hexdigest(), "a-1-py3-none-any.whl")
        if not wrong:
            path = download(wheel, tmp_path, Indexes())
            assert path.read_bytes() == body
            path.unlink()
            continue
        with pytest.raises(OptionsError, match=wrong):
            download(wheel, tmp_path, Indexes())
        assert list(tmp_path.glob("*.whl")) == []


def answer(h: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    h.send_response(200)
    h.send_header("Content-Length", str(len(body)))
    h.end_headers()
    h.wfile.write(body)


def whole(h: http.server.BaseHTTPRequestHandler) -> None:
    h.send_response(200)
    h.send_header("Content-Length", str(len(BODY)))
    h.end_headers()
    h.wfile.write(BODY)


def short(h: http.server.BaseHTTPRequestHandler) -> None:
    h.send_response(200)
    h.send_header("Content-Length", str(len(BODY)))
    h.end_headers()
    h.wfile.write(BODY[:500])


def broken_chunks(h: http.server.BaseHTTPRequestHandler) -> None:
    h.send_response(200)
    h.send_header("Transfer-Encoding", "chunked")
    h.end_headers()
    h.wfile.write(b"ff\r\nshort")


def without_length(h: http.server.BaseHTTPRequestHandler) -> None:
    h.send_response(200)
    h.send_header("Connection", "close")
    h.end_headers()
    h.wfile.write(BODY[:500])


def status(code: int) -> Answer:
    def answer(h: http.server.BaseHTTPRequestHandler) -> None:
        h.send_response(code)
        h.send_header("Content-Length", "0")
        h.end_headers()

    return answer


HASH = hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize("known", ["", HASH], ids=["without hash", "with hash"])
@pytest.mark.parametrize("first", [short, broken_chunks, status(503), status(429)])
def test_what_breaks_off_or_passes_is_tried_again(
    index: Callable[..., Index], tmp_path: Path, first: Answer, known: str
) -> None:
    one = index(first, whole)
    assert download(one.wheel(known), tmp_path, Indexes(), sleep=lambda s: None).read_bytes() == BODY
    assert one.asked == 2


def test_a_body_of_no_said_length_is_known_to_be_whole_by_its_hash_alone(
    index: Callable[..., Index], tmp_path: Path
) -> None:
    assert download(index(without_length, whole).wheel(HASH), tmp_path, Indexes(), sleep=lambda s: None)
    with pytest.raises(OptionsError, match="neither its hash nor its length"):
        download(index(without_length).wheel(), tmp_path, Indexes(), sleep=lambda s: None)


def test_what_stays_broken_is_told_and_leaves_no_file(index: Callable[..., Index], tmp_path: Path) -> None:
    pauses: list[float] = []
    with pytest.raises(OptionsError, match=r"downloading a-1\.tar\.gz: .*\(4 tries\)"):
        download(index(short).wheel(HASH), tmp_path, Indexes(), sleep=pauses.append)
    assert pauses == [2.0, 4.0, 8.0]
    assert list(tmp_path.iterdir()) == []


def test_another_file_than_the_locks_is_refused(index: Callable[..., Index], tmp_path: Path) -> None:
    one = index(whole)
    with pytest.raises(OptionsError, match=r"its hash is.*another file than the one that was locked"):
        download(one.wheel("0" * 64), tmp_path, Indexes(), sleep=lambda s: None)
    assert one.asked == 2  # a body of no said length may have broken off
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_not_tried_again(index: Callable[..., Index], tmp_path: Path) -> None:
    one = index(status(403))
    with pytest.raises(OptionsError, match=r"answered 403 Forbidden.*Check the credentials"):
        download(one.wheel(HASH), tmp_path, Indexes(), sleep=lambda s: None)
    assert one.asked == 1


@pytest.mark.parametrize("file", ["../a.whl", "/tmp/a.whl", "x/a.whl", ".."])
def test_an_index_cannot_name_a_place_outside_of_the_folder(
    index: Callable[..., Index], tmp_path: Path, file: str
) -> None:
    one = index(whole)
    with pytest.raises(OptionsError, match="no name of a file"):
        download(one.wheel(HASH, file), tmp_path, Indexes(), sleep=lambda s: None)
    assert one.asked == 0


def test_a_file_of_a_folder_is_copied_and_checked(tmp_path: Path) -> None:
    (tmp_path / "a b.tar.gz").write_bytes(BODY)
    wheel = Wheel(name="a", version="1", file="a.tar.gz", sha256=HASH, url=(tmp_path / "a b.tar.gz").as_uri())
    assert download(wheel, tmp_path, Indexes()).read_bytes() == BODY


Mocked = Callable[[Callable[[httpx.Request], httpx.Response]], None]


@pytest.fixture
def mocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mocked]:
    """Lets a function answer in place of every index."""
    made = httpx.Client

    def mock(answer: Callable[[httpx.Request], httpx.Response]) -> None:
        fetch.client_for.cache_clear()
        monkeypatch.setattr(
            fetch.httpx, "Client", lambda **options: made(transport=httpx.MockTransport(answer), **options)
        )

    yield mock
    fetch.client_for.cache_clear()


def looked_into(wheel: Wheel, folder: Path) -> object:
    return contents.contents(wheel, Indexes())


def downloaded(wheel: Wheel, folder: Path) -> object:
    return download(wheel, folder, Indexes(), sleep=lambda _: None)


@pytest.mark.parametrize("how", [downloaded, looked_into])
@pytest.mark.parametrize("to", ["http://anybody/a.whl", "http://index/a.whl"])
def test_an_index_that_leads_from_https_to_http_is_not_followed_there(
    mocked: Mocked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: Any, to: str
) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        if request.url.path == "/again":
            return httpx.Response(302, headers={"Location": to})
        if request.url.host == "index" and request.url.scheme == "https":
            return httpx.Response(302, headers={"Location": "https://mirror/again"})
        return httpx.Response(200, content=BODY)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mocked(answer)
    wheel = Wheel(name="a", version="1", file="a-1-py3-none-any.whl", sha256="", url="https://index/a.whl")
    with pytest.raises(OptionsError, match="leads on to http"):
        how(wheel, tmp_path)
    assert asked
    assert all(url.startswith("https:") for url in asked)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("first", [status(403), status(404), status(500), without_length, short])
def test_a_download_that_is_refused_leaves_no_file(
    index: Callable[..., Index], tmp_path: Path, first: Answer
) -> None:
    with pytest.raises(OptionsError):
        downloaded(index(first).wheel(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_address_of_a_file_is_read_as_windows_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "url2pathname", nturl2path.url2pathname)
    assert str(sites.path_of("file:///C:/a%20b/x.whl")) == "C:\\a b\\x.whl"


def test_a_record_that_fills_the_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel,
        wheel.open("a-1.dist-info/RECORD", "w", force_zip64=True) as record,
    ):
        for _ in range(65):
            record.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20

    def read(*_: object) -> bytes:
        raise AssertionError("it was read")

    monkeypatch.setattr(zipfile.ZipFile, "read", read)
    for look in (contents.check_record, contents.contents_of_file):
        with pytest.raises(zipfile.BadZipFile, match="longer than 64 MiB"):
            look(path)


def test_a_body_that_is_longer_than_the_index_said_is_given_up(mocked: Mocked, tmp_path: Path) -> None:
    given = 0

    def body() -> Iterator[bytes]:
        nonlocal given
        while given < 100:
            given += 1
            yield bytes(1 << 20)

    mocked(lambda request: httpx.Response(200, content=body()))
    wheel = Wheel(name="a", version="1", file="a-1.tar.gz", sha256="0" * 64, size=1000, url="https://index/a")
    with pytest.raises(OptionsError, match="longer than the 1,000 bytes"):
        downloaded(wheel, tmp_path)
    assert given < 20
    assert not list(tmp_path.iterdir())


MUCH = gzip.compress(bytes(64 << 20))


def compressed(request: httpx.Request) -> httpx.Response:
    """A little that becomes much where it is unpacked on the way."""
    headers = {"Content-Encoding": "gzip"}
    return httpx.Response(200, headers=headers, stream=Stream(lambda: iter([MUCH])))


class Stream(httpx.SyncByteStream):
    """The bytes of an answer, as they go over the line."""

    def __init__(self, pieces: Callable[[], Iterator[bytes]]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces()


def endless() -> Iterator[bytes]:
    for _ in range(100):
        yield bytes(1 << 20)
    raise AssertionError("all of it was read")


def more_than_asked(request: httpx.Request) -> httpx.Response:
    return httpx.Response(206, headers={"Content-Range": "bytes 0-9/1000"}, stream=Stream(endless))


def whole_without_end(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, stream=Stream(endless))


def an_endless_list_of_files(request: httpx.Request) -> httpx.Response:
    """A wheel of which the end says that a list of terabytes is before it."""
    size = 1 << 42
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFF0, 0, 0)
    asked = request.headers["Range"].removeprefix("bytes=")
    if not asked.startswith("-"):
        return more_than_asked(request)
    tail = bytes(int(asked[1:]) - len(end)) + end
    return httpx.Response(
        206, headers={"Content-Range": f"bytes 0-9/{size}"}, stream=Stream(lambda: iter([tail]))
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (compressed, "not a zip file"),
        (more_than_asked, "more of it than was asked for"),
        (whole_without_end, "longer than"),
        (an_endless_list_of_files, "at once"),
    ],
)
def test_what_is_looked_into_fills_neither_memory_nor_disk(
    mocked: Mocked,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[httpx.Request], httpx.Response],
    why: str,
) -> None:
    mocked(answer)
    monkeypatch.setattr(fetch, "_LONGEST", 10 << 20)
    wheel = Wheel(name="a", version="1", file="a-1-py3-none-any.whl", sha256="", url="https://index/a.whl")
    tracemalloc.start()
    try:
        with pytest.raises(OptionsError, match=why):
            contents.contents(wheel, Indexes())
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
