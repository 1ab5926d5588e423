"""What pip was told of package indexes: its variables and configuration files."""

from __future__ import annotations

import configparser
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect_coiled.environment.index_settings import (
    Index,
    IndexSettings,
    address_of,
    credentials_of,
    link_of,
)

_SECTIONS = ("global", "install", "download")
_KEYS = ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "proxy")


def read_pip(content: Mapping[str, Any], environ: Mapping[str, str]) -> IndexSettings:
    """Pip's settings: https://pip.pypa.io/en/stable/topics/configuration/."""
    said = _settings(environ)
    here = Path.cwd()
    index, extra = said.get("index-url", ""), said.get("extra-index-url", "").split()
    proxy = said.get("proxy", "")
    links = [link_of(link, here) for link in said.get("find-links", "").split()]
    indexes = []
    for url in extra:
        bare, pair = credentials_of(address_of(url, here))
        indexes.append(Index(bare, credentials=pair))
    if index:
        bare, pair = credentials_of(address_of(index, here))
        indexes.append(Index(bare, default=True, credentials=pair))
    return IndexSettings(
        indexes=tuple(indexes),
        # pip passes over a folder that is not there, and uv does not.
        find_links=tuple(x for x in links if "://" in x or Path(x).exists()),
        no_index=True if said.get("no-index", "").lower() in ("1", "true", "yes", "on") else None,
        # pip takes the best version of all indexes, uv that of the first one that has the name.
        strategy="unsafe-best-match" if extra else "",
        insecure_hosts=tuple(said.get("trusted-host", "").split()),
        certificates=said.get("cert", ""),
        proxy=proxy if "://" in proxy or not proxy else f"http://{proxy}",
    )


def _settings(environ: Mapping[str, str]) -> dict[str, str]:
    home = Path(environ.get("HOME", "/"))
    config = Path(environ.get("XDG_CONFIG_HOME", "") or home / ".config")
    own = environ.get("PIP_CONFIG_FILE", "")
    paths = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf")]
    if not (own and os.path.exists(own)):  # where there is one, pip reads no other file of the user's
        mac = home / "Library" / "Application Support"
        paths += [folder / "pip.conf" for folder in (home / ".pip", mac / "pip", config / "pip")]
    paths += [Path(sys.prefix) / "pip.conf"]
    if own:
        paths.append(Path(own))
    found: dict[str, str] = {}
    for path in paths if own != os.devnull else ():
        parser = configparser.RawConfigParser()
        with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
            parser.read(path)
        for section in _SECTIONS:
            if parser.has_section(section):
                found.update({k.replace("_", "-"): v for k, v in parser.items(section)})
    for key in _KEYS:
        if value := environ.get("PIP_" + key.upper().replace("-", "_")):
            found[key] = value
    return found
