"""Files of Dask's configuration that Dask cannot read, `coiled.yaml` among them: told by file and line.

Dask reads them as it is imported, and an import that fails says neither. May not import Dask.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect_coiled.errors import OptionsError, PrefectCoiledError

_MEND = "Mend it, or move it away."


def yaml_content(file: Path, text: bytes, hint: str = "") -> Any:
    """What a file of YAML says, as plain values.

    Args:
        text: What is in it.
        hint: What to do where that is no YAML.

    Raises:
        OptionsError: It is none. Not in the parser's own words: those show the line, which may hold a secret.
    """
    import yaml  # a command that reads none does without

    try:
        return yaml.safe_load(text.decode())
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        why = f"it is not text in UTF-8: see line {line}."
        raise OptionsError(str(file), why, "Save it as UTF-8.") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        at = f" in line {mark.line + 1}" if mark is not None else ""
        raise OptionsError(
            str(file), f"it is not YAML{at}{f': {problem}' if problem else ''}.", hint
        ) from None
    except (ValueError, RecursionError):  # a day that no month has; lists in lists without an end
        raise OptionsError(str(file), "it holds what YAML cannot mean.", hint) from None


@contextmanager
def dask_files_told() -> Iterator[None]:
    """Around imports of Dask: where one fails by a file, that file is what is told.

    Raises:
        OptionsError: Dask cannot read one of its files.
    """
    try:
        yield
    except PrefectCoiledError:
        raise
    except Exception:
        if (wrong := what_dask_cannot_read()) is not None:
            raise wrong from None
        raise


def what_dask_cannot_read(environ: Mapping[str, str] | None = None) -> OptionsError | None:
    """What is wrong with the first file that keeps Dask from being imported; None where none does.

    Args:
        environ: The environment; by default this process's.
    """
    if "dask.config" in sys.modules:
        return None  # it has read them
    return next(filter(None, map(_wrong, _files(os.environ if environ is None else environ))), None)


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Those that Dask reads: https://docs.dask.org/en/stable/configuration.html."""
    folders = [environ.get("DASK_ROOT_CONFIG", "/etc/dask"), os.path.join(sys.prefix, "etc", "dask")]
    folders += [os.path.join(prefix, "etc", "dask") for prefix in site.PREFIXES]
    folders += [os.path.expanduser("~/.config/dask"), *filter(None, [environ.get("DASK_CONFIG")])]
    for path in map(Path, dict.fromkeys(folders)):
        try:
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
        except OSError:  # as Dask has it
            continue
        yield from (one for one in inside if one == path or one.suffix.lower() in (".json", ".yaml", ".yml"))


def _wrong(file: Path) -> OptionsError | None:
    """What is wrong with a file. Its own words are not shown: they may hold a secret."""
    try:
        text = file.read_bytes()
    except OSError:  # as Dask has it
        return None
    try:
        content = yaml_content(file, text, _MEND)
    except OptionsError as error:
        return error
    if content is not None and not isinstance(content, dict):
        return OptionsError(str(file), f"it has to be a mapping, and is a {type(content).__name__}.", _MEND)
    for key in _keys(content):
        if not isinstance(key, str):
            return OptionsError(str(file), f"{key!r} in it is no name: names are texts.", _MEND)
    return None


def _keys(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _keys(inner)
