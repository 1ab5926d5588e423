"""Downloads files of packages by address, with the credentials of their index; checks that they are whole."""

from __future__ import annotations

import csv
import hashlib
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from prefect_coiled.environment.contents import check_record
from prefect_coiled.environment.fetch import LongerFileError, client_for, copied, headers_for
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.records import Wheel
from prefect_coiled.environment.sites import path_of
from prefect_coiled.errors import OptionsError

_SECONDS, _TRIES = 60.0, 4
# Answers that may be others a moment later.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class _OtherFileError(Exception):
    """What came is another file: a body of unknown length broke off, or somebody put it in its place."""


def download(
    wheel: Wheel, folder: Path, indexes: Indexes, *, sleep: Callable[[float], None] = time.sleep
) -> Path:
    """Fetch a file into a folder; what breaks off is tried again.

    Args:
        wheel: Its name, address and hash. Without a hash, the index has to say how long it is.

    Raises:
        OptionsError: It cannot be had, is not whole, or is another file than the lock says.
    """
    what = f"downloading {wheel.file}"
    if Path(wheel.file).name != wheel.file or wheel.file in ("", ".", ".."):
        raise OptionsError(what, "that is no name of a file, so it is not written.")
    path = folder / wheel.file
    try:
        _fetch_at_last(wheel, path, indexes, what, sleep)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _fetch_at_last(
    wheel: Wheel, path: Path, indexes: Indexes, what: str, sleep: Callable[[float], None]
) -> None:
    reason, hint = "", ""
    for n in range(_TRIES):
        if n:
            sleep(2.0**n)
        try:
            _fetch(wheel, path, indexes, what)
            if wheel.file.endswith(".whl") and (wrong := _not_recorded(path, wheel.record)):
                raise OptionsError(what, f"in this wheel {wrong}.", "Do not use the index that has it.")
            return
        except httpx.HTTPStatusError as error:
            reason = f"the index answered {error.response.status_code} {error.response.reason_phrase}"
            if error.response.status_code not in _PASSING:
                refused = error.response.status_code in (401, 403)
                hint = "Check the credentials of the index." if refused else ""
                raise OptionsError(what, indexes.redacted(reason), hint) from None
            hint = "Try again later."
        except (_OtherFileError, LongerFileError) as error:
            reason, hint = (
                str(error),
                "It is another file than the one that was locked: do not use this index.",
            )
            if n:  # once more was for a body that broke off
                break
        except (httpx.RequestError, OSError) as error:
            reason, hint = str(error) or type(error).__name__, "Try again later."
        except OptionsError:  # told already
            raise
        except (httpx.InvalidURL, ValueError) as error:
            raise OptionsError(what, indexes.redacted(str(error))) from None
    raise OptionsError(what, f"{indexes.redacted(reason)} ({n + 1} tries)", hint)


def _fetch(wheel: Wheel, path: Path, indexes: Indexes, what: str) -> None:
    """Fetch it once.

    Raises:
        httpx.HTTPError: The index does not give it. httpx sees when a body is shorter than was said.
        _OtherFileError: Its hash is another.
        LongerFileError: It is longer than the index said.
        OptionsError: Nothing says what is whole.
    """
    if urlsplit(wheel.url).scheme == "file":
        shutil.copyfile(path_of(wheel.url), path)
        _check(wheel, hashlib.sha256(path.read_bytes()).hexdigest())
        return
    headers = {"User-Agent": "prefect-coiled", **headers_for(wheel.url, indexes)}
    client = client_for(indexes.trust(wheel.url))
    with client.stream("GET", wheel.url, headers=headers, timeout=_SECONDS) as reply, path.open("wb") as out:
        reply.raise_for_status()
        if not wheel.sha256 and not {"content-length", "transfer-encoding"} & set(reply.headers):
            raise OptionsError(what, "the index says neither its hash nor its length.")
        found = copied(reply, out, wheel.size)
    _check(wheel, found)


def _not_recorded(path: Path, seen: str) -> str:
    try:
        return check_record(path, seen)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, csv.Error) as error:
        return f"not all can be read: {error}"


def _check(wheel: Wheel, found: str) -> None:
    if wheel.sha256 and found != wheel.sha256:
        raise _OtherFileError(f"its hash is {found[:16]}..., and the index said {wheel.sha256[:16]}...")
