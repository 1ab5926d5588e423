"""Files of requirements, with paths that hold wherever they are read.

pip and uv read `./mine` and `-e ../other` from the working directory, and `-r more.txt` from the folder of
the file that says so (https://pip.pypa.io/en/stable/reference/requirements-file-format/). uv runs elsewhere.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from prefect_coiled.errors import OptionsError

_FILE = re.compile(r"^(\s*(?:-r|--requirements?|-c|--constraints?)(?:\s+|=))([^\s#]+)(.*)\Z")
_PATH = re.compile(r"^(\s*(?:(?:-e|--editable|-f|--find-links)(?:\s+|=))?)([^\s;#\[]+)(.*)\Z")
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2")


def with_absolute_paths(path: Path) -> dict[str, str]:
    """The texts of a file of requirements and of those that it names, the file itself first, by new names.

    Raises:
        OptionsError: It cannot be read.
    """
    texts: dict[str, str] = {}
    _add(path, texts, {})
    return texts


def _add(path: Path, texts: dict[str, str], known: dict[Path, str]) -> str:
    path = path.resolve()
    if path in known:
        return known[path]
    name = known[path] = f"requirements-{len(known)}.txt"
    texts[name] = ""
    lines = (_line(line, path.parent, texts, known) for line in _read(path).splitlines())
    texts[name] = "\n".join(lines) + "\n"
    return name


def _line(line: str, folder: Path, texts: dict[str, str], known: dict[Path, str]) -> str:
    if found := _FILE.match(line):
        option, file, rest = found.groups()
        place = folder / file
        return f"{option}{_add(place, texts, known)}{rest}" if place.is_file() else line
    found = _PATH.match(line)
    if found is None:
        return line
    option, given, rest = found.groups()
    is_path = option.strip() or given.startswith((".", "..")) or given.endswith(_ARCHIVES)
    if not is_path or "://" in given:
        return line
    for place in (Path.cwd() / given, folder / given):
        if place.exists():
            return f"{option}{place.resolve().as_uri()}{rest}"
    return line


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OptionsError(f"software {path.name}", f"it cannot be read: {error.strerror}") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="replace")
