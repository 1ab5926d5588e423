"""What uv was told of package indexes: variables, files, a project's sources, a script's metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect_coiled.environment import projects
from prefect_coiled.environment.index_settings import (
    Index,
    IndexSettings,
    Source,
    address_of,
    credentials_of,
    link_of,
    merged,
)
from prefect_coiled.environment.records import normalized

PUBLIC = "https://pypi.org/simple"
# How uv reaches an index, where it keeps what it fetched, and how fast: no variable of these changes what it
# finds. https://docs.astral.sh/uv/reference/environment/
_KEPT = re.compile(
    r"UV_(CACHE_DIR|NO_CACHE|LINK_MODE|OFFLINE|HTTP_\w+|REQUEST_TIMEOUT|UPLOAD_HTTP_TIMEOUT|LOCK_TIMEOUT"
    r"|SYSTEM_CERTS|NATIVE_TLS|CONCURRENT_\w+|CREDENTIALS_DIR|GITHUB_TOKEN|GIT_LFS|NO_GITHUB_FAST_PATH"
    r"|(S3|GCS|AZURE)_ENDPOINT_URL|INDEX_\w+_(USERNAME|PASSWORD))\Z"
)
# Which environment is meant is said by `--python` alone.
_OTHERS = ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV")
_TRUE = ("1", "true", "yes", "on", "y", "t")


def read_uv(environ: Mapping[str, str], project: projects.Project, start: Path) -> IndexSettings:
    """What uv would do for this program, see https://docs.astral.sh/uv/concepts/configuration-files/.

    Args:
        start: The folder that the search for files started from.

    Raises:
        OptionsError: A file is no TOML, or an entry of it has another form than uv's.
    """
    places = [_of_variables(environ)]
    script = projects.main_script()
    inline = projects.table(projects.script_settings(script), "uv") if script else {}
    if script and inline:
        places += [_of_table(inline, script.parent), _sources_of(inline, script.parent)]
    # Those of `uv pip` alone are not read for a project that uv itself installs, from its lock.
    by_pip = not (project.root and (project.root / "uv.lock").is_file())
    for path, content in projects.settings_files(start, project, environ):
        if by_pip:
            places.append(_of_table(projects.table(content, "pip"), path.parent))
        places.append(_of_table(content, path.parent))
    for folder, content in projects.beside(project):
        places.append(_sources_of(projects.table(content, "tool", "uv"), folder))
    return _with_credentials(merged(places), environ)


def environ_of(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables for uv, without those that say what it finds, or where."""
    return {
        name: value
        for name, value in environ.items()
        if name not in _OTHERS and (not name.startswith("UV_") or _KEPT.match(name))
    }


def _of_variables(environ: Mapping[str, str]) -> IndexSettings:
    here = Path.cwd()
    urls = environ.get("UV_INDEX", "").split() + environ.get("UV_EXTRA_INDEX_URL", "").split()
    indexes = [_index(url, here) for url in urls]
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if url := environ.get(name, "").strip():
            indexes.append(replace(_index(url, here), default=True))
            break
    return IndexSettings(
        indexes=tuple(indexes),
        find_links=tuple(
            link_of(link.strip(), here)
            for link in environ.get("UV_FIND_LINKS", "").split(",")
            if link.strip()
        ),
        no_index=_flag(environ, "UV_NO_INDEX"),
        strategy=environ.get("UV_INDEX_STRATEGY", ""),
        keyring=environ.get("UV_KEYRING_PROVIDER", ""),
        insecure_hosts=tuple(environ.get("UV_INSECURE_HOST", "").split()),
        no_sources=_flag(environ, "UV_NO_SOURCES"),
        torch_backend=environ.get("UV_TORCH_BACKEND", ""),
    )


def _flag(environ: Mapping[str, str], name: str) -> bool | None:
    return environ[name].strip().lower() in _TRUE if environ.get(name, "").strip() else None


def _index(text: str, base: Path) -> Index:
    # uv lets an index have a name: "name=https://..."
    name, _, address = text.partition("=") if re.match(r"^[\w.-]+=", text) else ("", "", text)
    bare, pair = credentials_of(address_of(address, base))
    return Index(bare, name=name, credentials=pair)


def _of_table(table: Mapping[str, Any], base: Path) -> IndexSettings:
    """The settings in a uv.toml, `[tool.uv]` or `[tool.uv.pip]`."""
    indexes = list(_indexes_of(table, base))
    indexes += [_index(str(url), base) for url in table.get("extra-index-url") or ()]
    if table.get("index-url"):
        indexes.append(replace(_index(str(table["index-url"]), base), default=True))
    no_index, no_sources = table.get("no-index"), table.get("no-sources")
    return IndexSettings(
        indexes=tuple(indexes),
        find_links=tuple(link_of(str(link), base) for link in table.get("find-links") or ()),
        no_index=no_index if isinstance(no_index, bool) else None,
        strategy=str(table.get("index-strategy") or ""),
        keyring=str(table.get("keyring-provider") or ""),
        insecure_hosts=tuple(map(str, table.get("allow-insecure-host") or ())),
        no_sources=no_sources if isinstance(no_sources, bool) else None,
        torch_backend=str(table.get("torch-backend") or ""),
    )


def _indexes_of(table: Mapping[str, Any], base: Path) -> Iterator[Index]:
    for entry in table.get("index") or ():
        if isinstance(entry, str):  # of `[pip]`, as an option of the command line
            yield _index(entry, base)
        elif isinstance(entry, Mapping) and entry.get("url"):
            bare, pair = credentials_of(address_of(str(entry["url"]), base))
            yield Index(
                bare,
                name=str(entry.get("name") or ""),
                default=bool(entry.get("default")),
                explicit=bool(entry.get("explicit")),
                flat=entry.get("format") == "flat",
                authenticate=str(entry.get("authenticate") or ""),
                ignore_error_codes=tuple(int(code) for code in entry.get("ignore-error-codes") or ()),
                credentials=pair,
            )


def _sources_of(table: Mapping[str, Any], base: Path) -> IndexSettings:
    """What `[tool.uv.sources]` says of indexes, and the indexes that it may name."""
    found: dict[str, tuple[Source, ...]] = {}
    for name, entries in projects.table(table, "sources").items():
        listed = [entries] if isinstance(entries, Mapping) else entries
        # Which extra or group was installed is not known: each of them is one to try.
        sources = tuple(
            Source(str(e["index"]), str(e.get("marker") or ""))
            for e in listed
            if isinstance(e, Mapping) and e.get("index")
        )
        if sources:
            found[normalized(name)] = sources
    named = {source.index for sources in found.values() for source in sources}
    # A member's index is asked only for what names it: the settings are those of the workspace.
    indexes = tuple(
        replace(i, explicit=True, default=False) for i in _indexes_of(table, base) if i.name in named
    )
    return IndexSettings(indexes=indexes, sources=found)


def _with_credentials(settings: IndexSettings, environ: Mapping[str, str]) -> IndexSettings:
    """With the credentials in `UV_INDEX_NAME_USERNAME` and `_PASSWORD`."""
    indexes = []
    for index in settings.indexes:
        variable = "UV_INDEX_" + re.sub(r"[^A-Z0-9]", "_", index.name.upper())
        pair = environ.get(f"{variable}_USERNAME", ""), environ.get(f"{variable}_PASSWORD", "")
        told = index.name and index.credentials is None and any(pair)
        indexes.append(replace(index, credentials=pair) if told else index)
    return replace(settings, indexes=tuple(indexes))
