"""Downloads files of packages by address, with the credentials of their index, and checks their hash."""

from __future__ import annotations

import hashlib
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.records import Wheel
from prefect_coiled.errors import OptionsError

__all__ = ["download"]

_SECONDS, _TRIES, _CHUNK = 60.0, 3, 1 << 20


def download(
    wheel: Wheel, folder: Path, indexes: Indexes, *, sleep: Callable[[float], None] = time.sleep
) -> Path:
    """Fetch a file into a folder.

    Args:
        wheel: Its name, address and hash; without a hash, whatever comes is taken.
        folder: Where to put it.
        indexes: Who knows the credentials.
        sleep: Waits between tries.

    Raises:
        OptionsError: It cannot be had, or is another file than the lock says.
    """
    path = folder / wheel.file
    what = f"downloading {wheel.file}"
    for left in reversed(range(_TRIES)):
        try:
            found = _fetch(wheel.url, path, indexes)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or not left:
                hint = "Check the credentials of the index." if error.code in (401, 403) else ""
                raise OptionsError(what, f"the index answered {error.code} {error.reason}", hint) from None
        except (OSError, ValueError) as error:
            if not left:
                raise OptionsError(what, indexes.redacted(str(error))) from None
        sleep(2.0 ** (_TRIES - left))
    if wheel.sha256 and found != wheel.sha256:
        path.unlink()
        raise OptionsError(what, f"its hash is {found[:16]}..., and the index said {wheel.sha256[:16]}...")
    return path


def _fetch(url: str, path: Path, indexes: Indexes) -> str:
    request = urllib.request.Request(url, headers={"User-Agent": "prefect-coiled"})
    if header := indexes.authorization(url):
        # Not followed to another host.
        request.add_unredirected_header("Authorization", header)
    digest = hashlib.sha256()
    context = indexes.trust(url).context() if url.startswith("https:") else None
    with urllib.request.urlopen(request, timeout=_SECONDS, context=context) as reply, path.open("wb") as out:
        while chunk := reply.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()
