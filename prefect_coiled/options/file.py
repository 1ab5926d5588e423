"""`coiled.yaml`: what it says of clusters. Through Dask's configuration, so `DASK_COILED__...` counts too.

What stands where nothing reads it is refused rather than passed over. Keys that only a hosted service knows
mean nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from prefect_coiled.errors import OptionsError
from prefect_coiled.options.base import near, unset
from prefect_coiled.options.keywords import KEYWORDS
from prefect_coiled.options.kinds import shown
from prefect_coiled.options.models import OPTIONS

FILE = "coiled.yaml"
_NAMES = (FILE, "coiled.yml")
_HOSTED = ("user", "token", "server", "protocol")


def cluster_defaults(config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keywords of `Cluster` that `coiled.yaml` sets, but for backend options.

    Args:
        config: Dask's configuration; by default the one that is loaded.

    Raises:
        OptionsError: A part of the file has the wrong shape, or stands where nothing reads it.
    """
    section = _section(config)
    out: dict[str, Any] = {}
    for one in KEYWORDS.values():
        value: Any = section
        for part in one.place:
            value = _mapping(value, one.place[0]).get(part)
        if (
            one.option
            or one.name == "backend_options"
            or not one.place
            or unset(value)
            or (isinstance(value, (dict, list)) and not value)
        ):
            continue
        where = f"{FILE}: {'.'.join(one.place)}"
        if one.name == "worker_gpu_type" and isinstance(value, (list, tuple)):
            if len(value) != 1:
                raise OptionsError(f"{where} ({one.name}) {shown(value)}", "it is the name of one type.")
            value = value[0]
        out[one.name] = one.take(value, where)
    return out


def backend_options(config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The backend options that `coiled.yaml` sets, as they are written there."""
    given = _section(config).get("backend_options")
    return {} if unset(given) else KEYWORDS["backend_options"].take(given, FILE)


def _section(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The `coiled` part of Dask's configuration, with "_" in every name of its own."""
    if config is None:
        import dask.config

        _refuse_loose_keys(dask.config.paths)
        config = dask.config.config
    section = _mapping(config.get("coiled"), "coiled")
    _refuse_misplaced(section, ())
    for part in ("worker", "scheduler"):
        _refuse_misplaced(_mapping(section.get(part), part), (part,))
    return section


def _above(name: str) -> tuple[str, ...] | None:
    """The keys above a keyword's or an option's own, by any name that it may be written under."""
    if name in OPTIONS:
        return ("coiled", "backend-options")
    place = KEYWORDS[name].place if name in KEYWORDS else ()
    first = {one.place[0] for one in KEYWORDS.values() if one.place}
    if not place and name not in first:
        return None
    return ("coiled", *place[:-1])


def _refuse_misplaced(section: Mapping[str, Any], above: tuple[str, ...]) -> None:
    """Refuse what stands below another key than its own, or is a slip of the pen."""
    known = {one.place[len(above)] for one in KEYWORDS.values()
             if len(one.place) > len(above) and one.place[: len(above)] == above}  # fmt: skip
    for key in section:
        if key in known or (not above and key in _HOSTED) or (above == ("scheduler",) and key == "class"):
            continue
        written = ".".join((*above, key))
        for name in (key, "_".join((*above, key))):
            if (right := _above(name)) is not None:
                own = KEYWORDS[name].place[-1] if name in KEYWORDS and name not in OPTIONS else name
                raise OptionsError(
                    f"{written} ({FILE})",
                    "stands where nothing reads it.",
                    f"Write {own} below `{': '.join(right)}:`.",
                )
        if hint := near(key, sorted(known)):
            raise OptionsError(f"{written} ({FILE})", "there is no such key.", hint)


def _refuse_loose_keys(places: Iterable[str]) -> None:
    """Refuse a `coiled.yaml` whose keys lack the ones above them: Dask reads it, and nobody asks for them."""
    for place in places:
        path = Path(place)
        files = [path] if path.suffix in (".yaml", ".yml") else [path / name for name in _NAMES]
        for file in (f for f in files if f.name in _NAMES):
            try:
                content = yaml.safe_load(file.read_text(encoding="utf-8"))
            except (OSError, yaml.YAMLError, UnicodeDecodeError):
                continue  # not there, or Dask has said what is wrong with it
            for key in content if isinstance(content, Mapping) else ():
                above = _above(_name(key))
                if above is not None:
                    raise OptionsError(
                        f"{key} ({file})",
                        "stands by itself, where nothing reads it.",
                        f"Write it below `{': '.join(above)}:`.",
                    )


def _name(key: object) -> str:
    return str(key).replace("-", "_")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if unset(value):
        return {}
    if not isinstance(value, Mapping):
        raise OptionsError(f"{where} ({FILE})", f"must be a mapping, not {type(value).__name__}.")
    return {_name(key): inner for key, inner in value.items()}
