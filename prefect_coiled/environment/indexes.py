"""Where this client's pip and uv look for packages, and what they say there to be let in.

The credentials stay in this process and in the environment of the uv that it starts: they are in no argument
list, no address that is kept, no error text and no log.
"""

from __future__ import annotations

import base64
import configparser
import contextlib
import netrc
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["Indexes"]

_USER = re.compile(r"(\w[\w+.-]*://)[^\s/@'\"]+@")
_SECTIONS = ("global", "install", "download")


@dataclass(frozen=True)
class Indexes:
    """Package indexes as pip and uv were told of them.

    Attributes:
        environ: What uv has to be told, as its environment variables; may hold credentials.
        credentials: User and password by host and port.
    """

    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    credentials: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, environ: Mapping[str, str] | None = None) -> Indexes:
        """Read uv's variables, else pip's variables and configuration files.

        What uv was told goes before what pip was told. uv's own files (uv.toml, pyproject.toml) are read by
        uv itself.
        """
        environ = os.environ if environ is None else environ
        # uv trusts the machine's own certificates only when told to; pip does by itself.
        told = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
        urls = [
            url
            for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")
            for url in environ.get(name, "").split()
        ]
        if not urls:
            pip = _pip_settings(environ)
            index, extra = pip.get("index-url", ""), pip.get("extra-index-url", "").split()
            if index:
                told["UV_DEFAULT_INDEX"] = index
            if extra:
                told["UV_INDEX"] = " ".join(extra)
                # pip takes the best version of all indexes, uv that of the first one that has the name.
                told["UV_INDEX_STRATEGY"] = "unsafe-best-match"
            if links := pip.get("find-links", "").split():
                told["UV_FIND_LINKS"] = ",".join(links)
            if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
                told["UV_NO_INDEX"] = "1"
            urls = [index, *extra]
        return cls({**told, **environ}, _credentials(urls, environ))

    def authorization(self, url: str) -> str:
        """The Authorization header for a download, or ""."""
        netloc = urlsplit(url).netloc.rpartition("@")[2]
        pair = self.credentials.get(netloc) or _from_netrc(netloc, self.environ)
        if pair is None:
            return ""
        return "Basic " + base64.b64encode(f"{pair[0]}:{pair[1]}".encode()).decode()

    def redacted(self, text: str) -> str:
        """The text of a tool without any credential that is known here."""
        text = _USER.sub(r"\1", text)
        for user, password in self.credentials.values():
            for secret in (password, user):
                # A short user name may be part of any word; with an empty password it is the token.
                if secret and (secret is password or len(secret) > 8 or not password):
                    text = text.replace(secret, "****")
        return text


def _credentials(urls: list[str], environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for url in urls:
        # uv lets an index have a name: "name=https://..."
        name, _, address = url.rpartition("=") if re.match(r"^[\w-]+=\w+://", url) else ("", "", url)
        parts = urlsplit(address)
        netloc = parts.netloc.rpartition("@")[2]
        if parts.username or parts.password:
            found[netloc] = (unquote(parts.username or ""), unquote(parts.password or ""))
            continue
        variable = "UV_INDEX_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
        user, password = environ.get(f"{variable}_USERNAME", ""), environ.get(f"{variable}_PASSWORD", "")
        if name and (user or password):
            found[netloc] = (user, password)
    return found


def _from_netrc(netloc: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    home = environ.get("HOME", "")
    for path in (environ.get("NETRC", ""), f"{home}/.netrc", f"{home}/_netrc"):
        if path and Path(path).is_file():
            with contextlib.suppress(OSError, netrc.NetrcParseError):
                found = netrc.netrc(path).authenticators(netloc.partition(":")[0])
                if found:
                    return str(found[0] or ""), str(found[2] or "")
    return None


def _pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Pip's settings: https://pip.pypa.io/en/stable/topics/configuration/."""
    home = Path(environ.get("HOME", "/"))
    config = Path(environ.get("XDG_CONFIG_HOME", "") or home / ".config")
    paths = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), home / ".pip" / "pip.conf"]
    paths += [home / "Library" / "Application Support" / "pip" / "pip.conf", config / "pip" / "pip.conf"]
    paths += [Path(sys.prefix) / "pip.conf"]
    if environ.get("PIP_CONFIG_FILE"):
        paths.append(Path(environ["PIP_CONFIG_FILE"]))
    found: dict[str, str] = {}
    for path in paths if environ.get("PIP_CONFIG_FILE") != os.devnull else ():
        parser = configparser.RawConfigParser()
        with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
            parser.read(path)
        for section in _SECTIONS:
            if parser.has_section(section):
                found.update({k.replace("_", "-"): v for k, v in parser.items(section)})
    for key in ("index-url", "extra-index-url", "find-links", "no-index"):
        if value := environ.get("PIP_" + key.upper().replace("-", "_")):
            found[key] = value
    return found
