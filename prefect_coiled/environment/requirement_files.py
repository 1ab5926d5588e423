"""Files of requirements, with paths that hold wherever they are read, and the indexes that they name.

pip and uv read `./mine` and `-e ../other` from the working directory, and `-r more.txt` from the folder of
the file that says so (https://pip.pypa.io/en/stable/reference/requirements-file-format/). uv runs elsewhere.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from prefect_coiled.environment.index_settings import Index, IndexSettings, credentials_of
from prefect_coiled.errors import OptionsError

_FILE = re.compile(r"^(\s*(?:-r|--requirements?|-c|--constraints?)(?:\s+|=))([^\s#]+)(.*)\Z")
# A path may have a name before it, "mine[extra] @ ./mine", as uv lets it.
_PATH = re.compile(
    r"^(\s*(?:(?:-e|--editable|-f|--find-links)(?:\s+|=)|[A-Za-z0-9][\w.-]*\s*(?:\[[^\]]*\])?\s*@\s*)?)"
    r"([^\s;#\[]+)(.*)\Z"
)
_INDEX = re.compile(
    r"^\s*(-i|--index-url|--pypi-url|--extra-index-url|-f|--find-links|--trusted-host)"
    r"(?:\s+|=)[\"']?([^\s\"']+)[\"']?\s*(?:#.*)?\Z"
)
_VARIABLE = re.compile(r"\$\{(\w+)\}")
# What uv has for the working directory: https://docs.astral.sh/uv/reference/environment/
_ROOT = "${PROJECT_ROOT}"
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2")


@dataclass
class Requirements:
    """What a file of requirements says, and those that it names.

    Attributes:
        texts: Their texts without the indexes, the file itself first, by new names.
        indexes: Where they say that packages are.
    """

    texts: dict[str, str] = field(default_factory=dict)
    indexes: IndexSettings = field(default_factory=IndexSettings)


def read_requirements(path: Path) -> Requirements:
    """Read a file of requirements.

    Raises:
        OptionsError: It cannot be read.
    """
    made = Requirements()
    _add(path, made, {})
    return made


def _add(path: Path, made: Requirements, known: dict[Path, str]) -> str:
    path = path.resolve()
    if path in known:
        return known[path]
    name = known[path] = f"requirements-{len(known)}.txt"
    made.texts[name] = ""
    lines = [_line(line, path.parent, made, known) for line in _read(path).splitlines()]
    made.texts[name] = "\n".join(lines) + "\n"
    return name


def _line(line: str, folder: Path, made: Requirements, known: dict[Path, str]) -> str:
    if (found := _INDEX.match(line)) and _takes(made, found[1], _expanded(found[2])):
        return ""
    if found := _FILE.match(line):
        option, file, rest = found.groups()
        place = folder / file
        return f"{option}{_add(place, made, known)}{rest}" if place.is_file() else line
    found = _PATH.match(line)
    if found is None:
        return line
    option, given, rest = found.groups()
    for place in _places(option, given, folder):
        if place.exists():
            return f"{option}{place.resolve().as_uri()}{rest}"
    return line


def _places(option: str, given: str, folder: Path) -> Iterator[Path]:
    """Where what is written as a path may lie; nowhere if it is none."""
    for root in (Path.cwd(), folder):
        if _ROOT in given and "PROJECT_ROOT" not in os.environ:
            told = given.replace(_ROOT, root.as_posix())
            yield Path(unquote(urlsplit(told).path) if told.startswith("file:") else told)
        elif "://" not in given and (
            option.strip() or given.startswith((".", "..")) or given.endswith(_ARCHIVES)
        ):
            yield root / given


def _takes(made: Requirements, option: str, value: str) -> bool:
    """Add what a line says of indexes, so that its password is known for downloads too, and in no file."""
    settings = made.indexes
    if option == "--trusted-host":
        made.indexes = replace(settings, insecure_hosts=(*settings.insecure_hosts, value))
    elif "://" not in value:
        return False
    elif option in ("-f", "--find-links"):
        made.indexes = replace(settings, find_links=(*settings.find_links, value))
    else:
        bare, pair = credentials_of(value)
        index = Index(bare, default=option != "--extra-index-url", credentials=pair)
        made.indexes = replace(settings, indexes=(*settings.indexes, index))
    return True


def _expanded(text: str) -> str:
    return _VARIABLE.sub(lambda found: os.environ.get(found[1], found[0]), text)


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OptionsError(f"software {path.name}", f"it cannot be read: {error.strerror}") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="replace")
