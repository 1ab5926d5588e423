"""The modules beside the flow: what `import my_helpers` finds here and would not find on a machine.

Reads the folder of the main script and of the running flow; anything that was installed is not among it.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import sys
import zipfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from prefect_coiled.errors import OptionsError

__all__ = ["NAME", "folders", "pack", "write_wheel"]

logger = logging.getLogger(__name__)
NAME = "prefect-coiled-modules"
_MOST_FILES, _MOST_BYTES = 2000, 20_000_000
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "build", "dist", "site-packages"})


def folders(flow_file: str | None = None) -> tuple[Path, ...]:
    """The folders whose modules can be imported because the program was started there.

    Args:
        flow_file: The file of the running flow, if one runs.
    """
    main: Any = sys.modules.get("__main__")
    found: list[Path] = []
    if flow_file:
        found.append(_root_of(Path(flow_file).absolute()))
    if file := getattr(main, "__file__", None):
        found.append(_root_of(Path(file).absolute()))
    elif hasattr(sys, "ps1") or sys.path[:1] == [""]:  # a notebook or a prompt
        found.append(Path.cwd())
    installed = {Path(p).resolve() for p in _installed_places()}
    # A cell of a notebook names a file in a folder that is not there.
    kept = [f.resolve() for f in found if f.is_dir()]
    return tuple(dict.fromkeys(f for f in kept if not _is_installed(f, installed)))


def _root_of(file: Path) -> Path:
    """The folder that is on the path: of a module in a package, the one above the package."""
    folder = file.parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    return folder


def _installed_places() -> Iterator[str]:
    yield from (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__))
    import json

    for distribution in metadata.distributions():
        text = distribution.read_text("direct_url.json") if distribution.metadata else None
        try:
            direct = json.loads(text or "{}")
        except ValueError:
            continue
        if direct.get("dir_info", {}).get("editable"):
            source = unquote(urlsplit(str(direct.get("url", ""))).path)
            yield from (source, os.path.join(source, "src"))


def _is_installed(folder: Path, installed: set[Path]) -> bool:
    prefixes = {Path(sys.prefix).resolve(), Path(os.path.dirname(os.__file__)).resolve()}
    # An editable package comes as a wheel of its own; scripts in a folder of its checkout do not.
    return folder in installed or any(p == folder or p in folder.parents for p in prefixes)


def pack(places: Iterable[Path]) -> dict[str, bytes]:
    """The files of the modules and packages in some folders, by their path inside; the first folder wins.

    Raises:
        OptionsError: There are too many; such a folder is hardly one of modules.
    """
    packed: dict[str, bytes] = {}
    size = 0
    for place in places:
        for path in _files(place):
            name = path.relative_to(place).as_posix()
            if name in packed:
                continue
            packed[name] = path.read_bytes()
            size += len(packed[name])
            if len(packed) > _MOST_FILES or size > _MOST_BYTES:
                raise OptionsError(
                    f"modules beside the flow in {place}",
                    f"more than {_MOST_FILES:,} files or {_MOST_BYTES // 1_000_000} MB",
                    f"Move the flow into a folder of its own, or leave them: package_sync_ignore=[{NAME!r}].",
                )
    return packed


def _files(place: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(place), key=lambda e: e.name):
        if entry.is_file() and entry.name.endswith(".py") and entry.name[:-3].isidentifier():
            yield Path(entry.path)
        elif entry.is_dir() and (Path(entry.path) / "__init__.py").exists():
            yield from _inside(Path(entry.path))


def _inside(package: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(package):
        names[:] = sorted(n for n in names if n not in _LEFT_OUT and not n.startswith("."))
        yield from (Path(folder) / f for f in sorted(files) if not f.endswith((".pyc", ".pyo")))


def write_wheel(files: dict[str, bytes], folder: Path) -> Path | None:
    """A wheel of the files, whose version is their hash; None where there are none."""
    if not files:
        return None
    version = f"0+{fingerprint(files)}"
    name = NAME.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    described = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: prefect-coiled\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    everything = {**files, **described}
    listed = "".join(f"{n},,\n" for n in [*everything, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    path.write_bytes(zipped({**everything, f"{info}/RECORD": listed.encode()}))
    return path


def fingerprint(files: dict[str, bytes]) -> str:
    """A short hash of files: the same files have the same one."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()[:12]


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip archive of files, the same for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, (2020, 2, 2, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()
