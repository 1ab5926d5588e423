"""What Poetry and PDM have of package indexes in a project's pyproject.toml."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect_coiled.environment.index_settings import Index, IndexSettings, Source, credentials_of
from prefect_coiled.environment.projects import read_file, table
from prefect_coiled.environment.records import normalized
from prefect_coiled.environment.uv_settings import PUBLIC


def read_poetry(content: Mapping[str, Any], environ: Mapping[str, str]) -> IndexSettings:
    """Poetry's sources: https://python-poetry.org/docs/repositories/.

    Args:
        environ: Holds `POETRY_HTTP_BASIC_NAME_USERNAME` and `_PASSWORD`, and where `auth.toml` is.
    """
    poetry = table(content, "tool", "poetry")
    first: list[Index] = []
    later: list[Index] = []
    explicit: list[Index] = []
    for source in poetry.get("source") or ():
        name, priority = str(source.get("name") or ""), str(source.get("priority") or "primary").lower()
        bare, pair = credentials_of(str(source.get("url") or (PUBLIC if name.lower() == "pypi" else "")))
        pair = pair or _poetry_credentials(name, environ)
        made = Index(bare, name=_spelt(name), explicit=priority == "explicit", credentials=pair)
        if bare:
            {"explicit": explicit, "supplemental": later, "secondary": later}.get(priority, first).append(
                made
            )
    if first:
        # Where there is a primary source, the public index is no longer asked.
        first, last = [*first, *later][:-1], [*first, *later][-1]
        first.append(Index(**{**vars(last), "default": True}))
    else:
        first = later
    sources: dict[str, list[Source]] = {}
    for name, entry in _poetry_dependencies(poetry):
        for one in entry if isinstance(entry, list) else [entry]:
            if isinstance(one, Mapping) and one.get("source"):
                marker = str(one.get("markers") or "")
                if one.get("platform"):
                    platform = f"sys_platform == '{one['platform']}'"
                    marker = f"({marker}) and {platform}" if marker else platform
                sources.setdefault(normalized(name), []).append(Source(_spelt(str(one["source"])), marker))
    described = {index.name for index in (*first, *explicit)}
    if "pypi" not in described and any(s.index == "pypi" for found in sources.values() for s in found):
        explicit.append(Index(PUBLIC, name="pypi", explicit=True))  # Poetry knows it without being told
    return IndexSettings(
        indexes=(*first, *explicit),
        # Poetry takes the best version of all of them.
        strategy="unsafe-best-match" if first else "",
        sources={name: tuple(found) for name, found in sources.items()},
    )


def _poetry_dependencies(poetry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from table(poetry, "dependencies").items()
    yield from table(poetry, "dev-dependencies").items()
    for group in table(poetry, "group").values():
        yield from table(group, "dependencies").items()


def _poetry_credentials(name: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    variable = "POETRY_HTTP_BASIC_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
    pair = environ.get(f"{variable}_USERNAME", ""), environ.get(f"{variable}_PASSWORD", "")
    if any(pair):
        return pair
    home = Path(environ.get("HOME", "/"))
    places = [Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "pypoetry")]
    places.append(home / "Library" / "Application Support" / "pypoetry")
    if environ.get("POETRY_CONFIG_DIR"):
        places = [Path(environ["POETRY_CONFIG_DIR"])]
    for place in places:
        found = table(read_file(place / "auth.toml"), "http-basic", name)
        if found:
            return str(found.get("username") or ""), str(found.get("password") or "")
    return None


def read_pdm(content: Mapping[str, Any], environ: Mapping[str, str]) -> IndexSettings:
    """PDM's sources: https://pdm-project.org/latest/usage/config/."""
    indexes: list[Index] = []
    links: list[str] = []
    sources: dict[str, tuple[Source, ...]] = {}
    for source in table(content, "tool", "pdm").get("source") or ():
        url = _expanded(str(source.get("url") or ""), environ)
        name = str(source.get("name") or "")
        if source.get("type") == "find_links":
            links.append(url)
            continue
        bare, pair = credentials_of(url)
        user, password = (_expanded(str(source.get(k) or ""), environ) for k in ("username", "password"))
        pair = pair or ((user, password) if user or password else None)
        if bare:
            # The one of the name "pypi" stands in the place of the public one.
            indexes.append(Index(bare, name=_spelt(name), default=name == "pypi", credentials=pair))
        for package in source.get("include_packages") or ():
            sources[str(package).lower().replace("_", "-")] = (Source(_spelt(name)),)
    return IndexSettings(
        indexes=tuple(indexes),
        find_links=tuple(links),
        strategy="unsafe-best-match" if indexes else "",
        sources=sources,
    )


def _spelt(name: str) -> str:
    """The name of a source, which Poetry takes in any case, as uv lets an index be called."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower())


def _expanded(text: str, environ: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: environ.get(found[1], ""), text)
