"""What conda installed, as its own records say: of some of its packages Python has none.

https://docs.conda.io/projects/conda/en/stable/user-guide/concepts/packages.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

_ENDS = (".dist-info", ".egg-info", ".pth")


def conda_names(folder: Path) -> Mapping[str, str]:
    """The names to import in a folder of packages that conda put there, and the conda package of each."""
    for prefix in list(folder.parents)[:4]:
        records = prefix / "conda-meta"
        try:
            return _names(records, folder.relative_to(prefix).as_posix(), records.stat().st_mtime_ns)
        except OSError:
            continue
    return {}


@lru_cache(maxsize=4)
def _names(records: Path, inside: str, changed: int) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for path in sorted(records.glob("*.json")):
        try:
            told = json.loads(path.read_bytes())
            package, files = str(told["name"]), list(map(str, told["files"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        tops = {file[len(inside) + 1 :].partition("/")[0] for file in files if file.startswith(f"{inside}/")}
        found.update({top.partition(".")[0]: package for top in tops if not top.endswith(_ENDS)})
    return found
