"""Asks package indexes by HTTP: by the certificates that are trusted, and never led on to http.

Of a file the end can be read first: what is wanted of a wheel is there.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from typing import IO

import httpx

from prefect_coiled.environment.indexes import Indexes, Trust

_PART, _SECONDS, _CHUNK = 32 * 1024, 30.0, 1 << 20
# Bytes of a file whose length nobody says, and of what is read of one at once: a list of files has some MiB.
_LONGEST, _LONGEST_READ = 8 << 30, 64 << 20


class LongerFileError(OSError):
    """More comes of a file than the index said that it has, or than files of packages have."""


@lru_cache(maxsize=4)
def client_for(trust: Trust) -> httpx.Client:
    """A client that follows an index to other places, but not from https to http."""
    context = trust.context()
    way = (
        {"all://": httpx.HTTPTransport(verify=context, proxy=httpx.Proxy(trust.proxy))} if trust.proxy else {}
    )
    made = httpx.Client(verify=context, mounts=way, follow_redirects=True, timeout=_SECONDS)
    made.event_hooks["response"].append(_refuse_downgrade)
    return made


def _refuse_downgrade(reply: httpx.Response) -> None:
    to = reply.url.join(reply.headers["Location"]) if reply.has_redirect_location else reply.url
    if (reply.url.scheme, to.scheme) == ("https", "http"):
        raise httpx.RemoteProtocolError("the index leads on to http, where anybody may answer")


def opened(url: str, indexes: Indexes, size: int = 0) -> IO[bytes]:
    """A file of an index, of which those parts are fetched that are read, where the index gives parts.

    Nothing says that the parts are of one file, or of the file that is given as a whole.

    Args:
        size: Bytes that it has, where the index says.

    Raises:
        httpx.HTTPError: The index does not give it.
        LongerFileError: It is longer than the index says, or than files of packages are.
    """
    client, headers = client_for(indexes.trust(url)), headers_for(url, indexes)
    with client.stream("GET", url, headers={**headers, "Range": f"bytes=-{_PART}"}) as reply:
        total = reply.headers.get("Content-Range", "").rpartition("/")[2]
        if reply.status_code == 206 and total.isdigit():
            tail = _part(reply, _PART)
            return _Parts(url, headers, client, tail, int(total))  # type: ignore[return-value]
        if reply.status_code == 200:
            return _kept(reply, size)
    with client.stream("GET", url, headers=headers) as reply:  # it knows no parts counted from the end
        reply.raise_for_status()
        return _kept(reply, size)


def whole(url: str, indexes: Indexes, out: IO[bytes], size: int = 0) -> str:
    """Write a whole file of an index into another; gives its SHA-256.

    Raises:
        httpx.HTTPError: The index does not give it.
        LongerFileError: It is longer than the index says, or than files of packages are.
    """
    with client_for(indexes.trust(url)).stream("GET", url, headers=headers_for(url, indexes)) as reply:
        reply.raise_for_status()
        return copied(reply, out, size)


def _kept(reply: httpx.Response, size: int) -> IO[bytes]:
    out = tempfile.TemporaryFile()  # noqa: SIM115, whoever reads it closes it
    copied(reply, out, size)
    out.seek(0)
    return out


def copied(reply: httpx.Response, out: IO[bytes], size: int = 0) -> str:
    """Write what comes into a file, as it is: an archive may be called compressed. Gives its SHA-256.

    Raises:
        LongerFileError: It is longer.
    """
    digest, length = hashlib.sha256(), 0
    for chunk in reply.iter_raw(_CHUNK):
        length += len(chunk)
        if length > (size or _LONGEST):
            said = f"the {size:,} bytes that the index said" if size else f"{_LONGEST:,} bytes"
            raise LongerFileError(f"it is longer than {said}")
        digest.update(chunk)
        out.write(chunk)
    return digest.hexdigest()


def _part(reply: httpx.Response, wanted: int) -> bytes:
    """What was asked for of a file, and no more, whatever else comes."""
    data = b""
    for chunk in reply.iter_raw(_CHUNK):
        data += chunk
        if len(data) > wanted:
            raise OSError("the index gives more of it than was asked for")
    return data


def headers_for(url: str, indexes: Indexes) -> dict[str, str]:
    """What a request for a file of an index carries; httpx sends credentials to no other host."""
    header = indexes.authorization(url)
    # As it is: what is compressed once more can grow without end.
    return {"Accept-Encoding": "identity", **({"Authorization": header} if header else {})}


class _Parts(io.RawIOBase):
    """A file behind an address of which only those parts are fetched that are read."""

    def __init__(
        self, url: str, headers: Mapping[str, str], client: httpx.Client, tail: bytes, size: int
    ) -> None:
        self._url, self._headers, self._client, self._size = url, headers, client, size
        self._parts = [(size - len(tail), tail)]
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        for start, part in self._parts:
            if start <= self._at and end <= start + len(part):
                break
        else:
            start, part = self._at, self._fetch(self._at, max(end, min(self._at + _PART, self._size)))
            self._parts.append((start, part))
        data = part[self._at - start : end - start]
        self._at += len(data)
        return data

    def _fetch(self, start: int, end: int) -> bytes:
        if end - start > _LONGEST_READ:
            raise OSError(f"more than {_LONGEST_READ >> 20} MiB of it would be read at once")
        headers = {**self._headers, "Range": f"bytes={start}-{end - 1}"}
        with self._client.stream("GET", self._url, headers=headers) as reply:
            reply.raise_for_status()
            if reply.status_code != 206:
                raise OSError("the index gives no parts of it any more")
            return _part(reply, end - start)
