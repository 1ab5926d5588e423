"""The user's own modules as a wheel, which machines install as any package; its version is its hash."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from pathlib import Path

NAME = "prefect-coiled-modules"


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
    told = io.StringIO()
    csv.writer(told, lineterminator="\n").writerows(
        (n, "", "") for n in [*sorted(everything), f"{info}/RECORD"]
    )
    path = folder / f"{name}-{version}-py3-none-any.whl"
    path.write_bytes(zipped({**everything, f"{info}/RECORD": told.getvalue().encode()}))
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
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, (2020, 2, 2, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()
