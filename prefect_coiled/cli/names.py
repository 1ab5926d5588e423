"""Names for a shell's completion: regions, and the accounts and clusters that earlier commands have seen.

A key press cannot wait for Prefect and AWS, so what they said is kept in the user's state folder. It names
nothing secret; what is not there any more is forgotten when it is next looked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path

_DEFAULT = "default"
# Regions are looked at side by side.
_LOCK = threading.Lock()


def accounts(incomplete: str) -> list[str]:
    """Slugs that begin so."""
    return _beginning(incomplete, {*_read().get("accounts", []), _DEFAULT})


def clusters(incomplete: str) -> list[str]:
    """Names of clusters that begin so, wherever they were seen."""
    seen = (name for place, names in _read().items() if place != "accounts" for name in names)
    return _beginning(incomplete, seen)


def regions(incomplete: str) -> list[str]:
    """Regions that begin so."""
    from prefect_coiled.options.models import REGIONS

    return _beginning(incomplete, REGIONS)


def saw_accounts(*slugs: str, all_of_them: bool = False) -> None:
    """Keep slugs of accounts that there are.

    Args:
        all_of_them: Whether there are no others.
    """
    before = [] if all_of_them else _read().get("accounts", [])
    _keep("accounts", [*before, *slugs])


def saw_clusters(account: str, region: str, names: Iterable[str]) -> None:
    """Keep the names of all clusters that an account has in a region."""
    _keep(f"{account}/{region}", names)


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)})


def _file() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "prefect-coiled" / "names.json"


def _read() -> dict[str, list[str]]:
    try:
        read = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        # There is none yet, it was cut off, or there is no home: then nothing is offered.
        return {}
    listed = read.items() if isinstance(read, dict) else ()
    return {key: [str(name) for name in names] for key, names in listed if isinstance(names, list)}


def _keep(key: str, names: Iterable[str]) -> None:
    wanted = sorted(set(names))
    # Without a home that can be written to there is no completion.
    with _LOCK, contextlib.suppress(OSError, RuntimeError):
        known = _read()
        if known.get(key, []) == wanted:
            return
        known[key] = wanted
        _file().parent.mkdir(parents=True, exist_ok=True)
        part = _file().with_suffix(f".{os.getpid()}")
        part.write_text(
            json.dumps({place: found for place, found in known.items() if found}), encoding="utf-8"
        )
        part.replace(_file())
