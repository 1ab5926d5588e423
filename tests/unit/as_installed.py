"""Packages as installers leave them, for the tests of this folder."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path


def installed(
    folder: Path,
    name: str,
    version: str,
    files: dict[str, str],
    *,
    record: str = "",
    installer: str = "pip",
    direct: str = "",
    again: bool = False,
) -> Path:
    """A package as an installer leaves it; gives its record."""
    info = folder / (record or f"{name.replace('-', '_')}-{version}.dist-info")
    info.mkdir(parents=True, exist_ok=again)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (info / "INSTALLER").write_text(f"{installer}\n")
    if direct:
        (info / "direct_url.json").write_text(direct)
    rows = []
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
        rows.append(f"{path},sha256={digest(content)},{len(content)}")
    listed = [f"{info.name}/{p.name},," for p in sorted(info.iterdir())]
    (info / "RECORD").write_text("\n".join([*rows, *listed, f"{info.name}/RECORD,,"]) + "\n")
    return info


def digest(content: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
