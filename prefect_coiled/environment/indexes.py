"""Where this client's packages come from, and what its tools say there to be let in.

The credentials stay in this process and in the environment of the uv that it starts: they are in no argument
list, no address that is kept, no error text and no log.
"""

from __future__ import annotations

import base64
import contextlib
import json
import netrc
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from packaging.markers import InvalidMarker, Marker

from prefect_coiled.environment import projects
from prefect_coiled.environment.index_settings import (
    Index,
    IndexSettings,
    credentials_of,
    index_table,
    merged,
    text_of,
)
from prefect_coiled.environment.pip_settings import read_pip
from prefect_coiled.environment.project_settings import read_pdm, read_poetry
from prefect_coiled.environment.uv_settings import environ_of, read_uv
from prefect_coiled.errors import OptionsError

_USER = re.compile(r"://[^\s/@'\"]+@")


# Of pip and Poetry, behind their own settings: https://requests.readthedocs.io/en/latest/user/advanced/#ssl-cert-verification
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


class Trust(NamedTuple):
    """How a server is known and reached.

    Attributes:
        certificates: A file of certificates; else the machine's own: they know a company's proxies.
        proxy: What it is reached by, where no variable says it; may hold credentials.
    """

    certificates: str = ""
    checked: bool = True
    proxy: str = ""

    def context(self) -> ssl.SSLContext:
        """For a connection."""
        context = ssl.create_default_context(cafile=self.certificates or None)
        if not self.certificates and not _knows_any(context):
            import certifi  # what httpx itself would take

            context.load_verify_locations(certifi.where())
        if not self.checked:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


@dataclass(frozen=True)
class Indexes:
    """Package indexes as the client's tools were told of them.

    Attributes:
        environ: The variables for uv, which hold the credentials.
        tool: Which tool says where packages come from.
        locks: The lock files that the project may have.
    """

    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    settings: IndexSettings = field(default_factory=IndexSettings)
    tool: str = "pip"
    locks: tuple[Path, ...] = ()

    @classmethod
    def of(cls, environ: Mapping[str, str] | None = None, folder: Path | None = None) -> Indexes:
        """Read what the tools of this program's project were told.

        What uv was told holds; where it was told of no index, what Poetry and PDM have in the project's
        pyproject.toml, and else pip's settings.

        Args:
            folder: Of the project; by default the main script's, else the working directory.

        Raises:
            OptionsError: A file of settings cannot be read.
        """
        environ = os.environ if environ is None else environ
        start = folder or projects.start_folder(environ, projects.main_script())
        project = projects.find_project(start)
        settings = read_uv(environ, project, start)
        tool, sources = "uv", settings.sources
        for name, read in (("poetry", read_poetry), ("pdm", read_pdm), ("pip", read_pip)):
            if settings.says_where:
                break
            settings, tool = merged([settings, read(project.content, environ)]), name
        uses_uv = sources or projects.table(project.root_content, "tool").get("uv")
        made = cls.told(settings, environ, "uv" if uses_uv else tool)
        return replace(made, locks=projects.lock_files(project))

    @classmethod
    def told(cls, settings: IndexSettings, environ: Mapping[str, str], tool: str = "pip") -> Indexes:
        """From settings."""
        named = []
        for n, index in enumerate(settings.indexes):
            pair = None if index.authenticate == "never" else index.credentials
            name = index.name or (f"prefect-coiled-{n}" if pair else "")
            named.append(replace(index, name=name, credentials=pair))
        settings = replace(settings, indexes=tuple(named))
        # uv trusts the machine's own certificates only when told to; pip does by itself.
        said = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
        secrets: dict[str, str] = {}
        for index in settings.indexes:
            variable = "UV_INDEX_" + re.sub(r"[^A-Z0-9]", "_", index.name.upper())
            # Without a password uv asks the keyring, where it was told to.
            for part, value in zip(("USERNAME", "PASSWORD"), index.credentials or (), strict=False):
                if value:
                    secrets[f"{variable}_{part}"] = value
        if settings.find_links:
            secrets["UV_FIND_LINKS"] = ",".join(settings.find_links)
        others = _BUNDLES if tool != "uv" else ()
        bundles = [settings.certificates, *(environ.get(name, "") for name in others)]
        if bundle := next((path for path in bundles if path and Path(path).is_file()), ""):
            said["SSL_CERT_FILE"] = bundle
        if any(environ.get(name) or environ.get(name.lower()) for name in _PROXIES):
            settings = replace(settings, proxy="")
        if settings.proxy:
            secrets |= {"HTTPS_PROXY": settings.proxy, "HTTP_PROXY": settings.proxy}
        kept = environ_of(environ)
        return cls({**said, **kept, **secrets}, settings, tool)

    def with_more(self, settings: IndexSettings) -> Indexes:
        """These, and what was said elsewhere behind them."""
        told = Indexes.told(merged([self.settings, settings]), self.environ, self.tool)
        # The variables have the proxy that was found by now.
        told = replace(told, settings=replace(told.settings, proxy=self.settings.proxy))
        return replace(told, locks=self.locks)

    @property
    def text(self) -> str:
        """The settings as a uv.toml, without credentials."""
        return text_of(self.settings)

    @property
    def credentials(self) -> dict[str, tuple[str, str]]:
        """User and password by address."""
        found = {i.url: i.credentials for i in self.settings.indexes if i.credentials}
        for link in self.settings.find_links:
            bare, pair = credentials_of(link)
            if pair:
                found[bare] = pair
        return found

    def index(self, name: str) -> Index | None:
        """The index of a name."""
        return next((i for i in self.settings.indexes if i.name == name), None)

    def locked(self) -> dict[str, str]:
        """The versions in the project's lock, by name; without those of which it has several."""
        for path in self.locks:
            if path.is_file():
                return projects.locked_versions(path)
        return {}

    def sources_for(self, name: str, markers: Mapping[str, str]) -> list[str]:
        """The names of the indexes that a package is asked of; none where all are asked.

        Raises:
            OptionsError: A source names an index that nobody has described, or its marker is none.
        """
        found = []
        for source in self.settings.sources_of(name):
            if source.marker and not _holds(source.marker, markers, name):
                continue
            if self.index(source.index) is None:
                raise OptionsError(
                    f"package {name}: its source is the index {source.index!r}",
                    "no index of that name is described here",
                    f"Describe it: [[tool.uv.index]] with name = {json.dumps(source.index)} and its url.",
                )
            found.append(source.index)
        return list(dict.fromkeys(found))

    def authorization(self, url: str) -> str:
        """The Authorization header for a download, or "": that of the index with the most similar address."""
        best, pair = -1, None
        for address, found in self.credentials.items():
            if (alike := _alike(address, url)) > best:
                best, pair = alike, found
        if pair is None:
            pair = _from_netrc(urlsplit(url).hostname or "", self.environ)
        if pair is None:
            return ""
        return "Basic " + base64.b64encode(f"{pair[0]}:{pair[1]}".encode()).decode()

    def trust(self, url: str) -> Trust:
        """How the server of an address is known."""
        parts = urlsplit(url)
        names = {parts.hostname, f"{parts.hostname}:{parts.port or 443}"}
        told = {host.rpartition("//")[2] for host in self.settings.insecure_hosts}
        return Trust(self.environ.get("SSL_CERT_FILE", ""), not names & told, self.settings.proxy)

    def redacted(self, text: str) -> str:
        """The text of a tool without any credential that is known here."""
        text = _USER.sub("://", text)
        for user, password in self.credentials.values():
            for secret in (password, user):
                # A short user name may be part of any word; with an empty password it is the token.
                if secret and (secret is password or len(secret) > 8 or not password):
                    text = text.replace(secret, "****").replace(quote(secret, safe=""), "****")
        return text

    def project_text(self, requirements: list[str], sources: Mapping[str, str]) -> str:
        """A pyproject.toml that requires packages, some of them of one index alone.

        Args:
            sources: The name of the index by the package's name.
        """
        text = '[project]\nname = "prefect-coiled-machines"\nversion = "0"\n'
        text += f"dependencies = {json.dumps(requirements)}\n"
        if sources:
            text += "[tool.uv.sources]\n"
            text += "".join(f"{name} = {{ index = {json.dumps(i)} }}\n" for name, i in sources.items())
            for index in self.settings.indexes:
                if index.name in sources.values():
                    text += index_table("tool.uv.index", index)
        return text


def _knows_any(context: ssl.SSLContext) -> bool:
    """Whether the machine has certificates of its own; python.org's Python for macOS comes without.

    Those of a folder are read one by one, as they are needed.
    """
    folder = ssl.get_default_verify_paths().capath
    with contextlib.suppress(OSError):
        return bool(context.cert_store_stats()["x509_ca"] or (folder and os.listdir(folder)))
    return False


def _holds(marker: str, markers: Mapping[str, str], name: str) -> bool:
    try:
        return Marker(marker).evaluate(dict(markers))
    except InvalidMarker as error:
        raise OptionsError(f"marker of the source of {name}", str(error)) from error


def _alike(address: str, url: str) -> int:
    """How many parts of the path two addresses of one server share; -1 for two servers."""
    one, two = urlsplit(address), urlsplit(url)
    if (one.scheme, one.hostname, one.port) != (two.scheme, two.hostname, two.port):
        return -1
    shared = 0
    for a, b in zip(unquote(one.path).split("/"), unquote(two.path).split("/"), strict=False):
        if a != b:
            break
        shared += 1
    return shared


def _from_netrc(host: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    home = environ.get("HOME", "")
    for path in (environ.get("NETRC", ""), f"{home}/.netrc", f"{home}/_netrc"):
        if path and Path(path).is_file():
            with contextlib.suppress(OSError, netrc.NetrcParseError):
                found = netrc.netrc(path).authenticators(host)
                if found:
                    return str(found[0] or ""), str(found[2] or "")
    return None
