"""Which files of a user's say where packages come from, and what is in them: found as uv finds them.

Reads files; asks nobody.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from prefect_coiled.environment.records import normalized, read_toml
from prefect_coiled.environment.sites import real, site_folders
from prefect_coiled.errors import OptionsError

# https://packaging.python.org/en/latest/specifications/inline-script-metadata/
_INLINE = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


@dataclass(frozen=True)
class Project:
    """The project that a program belongs to.

    Attributes:
        folder: Of its pyproject.toml; None where there is no project.
        root: The folder of the workspace that it is a member of, or its own.
    """

    folder: Path | None = None
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)
    root: Path | None = None
    root_content: Mapping[str, Any] = field(default_factory=dict, repr=False)


def main_script() -> Path | None:
    """The file of the running program, unless that is an installed one such as `prefect`."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if not file:
        return None
    path = Path(file).absolute()
    # Not all below `sys.prefix`: an environment may be made in the project's own folder.
    named = [sysconfig.get_path("stdlib"), sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    installed = {*site_folders(), *map(real, named)}
    return None if installed & set(path.resolve().parents) or not os.path.isfile(path) else path


def start_folder(environ: Mapping[str, str], script: Path | None) -> Path:
    """Where the search for a project starts: the main script's folder, else the working directory.

    Args:
        environ: `UV_PROJECT` names another folder, as for uv.

    Raises:
        OptionsError: The working directory is not there any more.
    """
    if environ.get("UV_PROJECT"):
        return Path(environ["UV_PROJECT"]).absolute()
    if script is not None and any(_files_in(folder) for folder in _upward(script.parent)):
        return script.parent
    try:
        return Path.cwd()
    except OSError as error:
        raise OptionsError(
            "the working directory", f"it cannot be read: {error.strerror}", "Change to one that is there."
        ) from error


def find_project(start: Path) -> Project:
    """The project that a folder is in, and its workspace.

    Source of the rules: https://docs.astral.sh/uv/concepts/projects/workspaces/.
    """
    for folder in _upward(start):
        if not os.path.isfile(folder / "pyproject.toml"):
            continue
        content = read_file(folder / "pyproject.toml")
        if table(content, "tool", "uv", "workspace") or "project" not in content:
            return Project(folder, content, folder, content)
        for above in folder.parents:
            root = read_file(above / "pyproject.toml")
            if _is_member(folder, above, table(root, "tool", "uv", "workspace")):
                return Project(folder, content, above, root)
        return Project(folder, content, folder, content)
    return Project()


def beside(project: Project) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The projects that are installed as one, each of which may say where its own dependencies come from.

    The project itself, the root of its workspace, the other members, and what they depend on by path.
    """
    if project.folder is None or project.root is None:
        return
    workspace = table(project.root_content, "tool", "uv", "workspace")
    found = [project.folder, project.root]
    for glob in workspace.get("members") or ():
        if not glob or Path(str(glob)).is_absolute():
            continue
        inside = sorted(project.root.glob(str(glob)))
        found += [folder for folder in inside if _is_member(folder, project.root, workspace)]
    seen: set[Path] = set()
    while found:
        folder = found.pop(0)
        if folder.resolve() in seen or not os.path.isfile(folder / "pyproject.toml"):
            continue
        seen.add(folder.resolve())
        content = read_file(folder / "pyproject.toml")
        yield folder, content
        for entries in table(content, "tool", "uv", "sources").values():
            for entry in entries if isinstance(entries, list) else [entries]:
                if isinstance(entry, Mapping) and entry.get("path"):
                    found.append(folder / Path(str(entry["path"])).expanduser())


def settings_files(start: Path, project: Project, environ: Mapping[str, str]) -> Iterator[tuple[Path, Any]]:
    """The files that hold uv's settings, the one that holds first, with their settings.

    A workspace has one set of settings, at its root; a `uv.toml` hides the pyproject.toml beside it.
    Source of the rules: https://docs.astral.sh/uv/concepts/configuration-files/.
    """
    if environ.get("UV_CONFIG_FILE"):
        path = Path(environ["UV_CONFIG_FILE"]).absolute()
        yield path, read_file(path)
        return
    if environ.get("UV_NO_CONFIG", "").lower() in ("1", "true", "yes", "on"):
        return
    is_workspace = bool(table(project.root_content, "tool", "uv", "workspace"))
    for folder in _upward(project.root if is_workspace and project.root else start):
        found = _uv_settings(folder)
        if found is not None:
            yield found
            break
    for path in _user_files(environ):
        if os.path.isfile(path):
            yield path, read_file(path)
            break
    for path in _system_files(environ):
        if os.path.isfile(path):
            yield path, read_file(path)
            break


def script_settings(script: Path) -> dict[str, Any]:
    """The table `[tool]` of the metadata in a script.

    Raises:
        OptionsError: It is no TOML.
    """
    try:
        blocks = list(_INLINE.finditer(script.read_text(encoding="utf-8").replace("\r\n", "\n")))
    except (OSError, UnicodeDecodeError):
        return {}
    if not blocks:
        return {}
    lines = blocks[0].group("content").splitlines()
    text = "\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)
    try:
        return dict(table(read_toml(text), "tool"))
    except ValueError as error:
        raise OptionsError(f"metadata in {script.name}", f"it is no TOML: {error}") from None


def lock_files(project: Project) -> tuple[Path, ...]:
    """Where a project's lock may be: uv's, Poetry's, PDM's."""
    if project.folder is None or project.root is None:
        return ()
    return project.root / "uv.lock", project.folder / "poetry.lock", project.folder / "pdm.lock"


def locked_versions(path: Path) -> dict[str, str]:
    """The versions in a lock, by name; without those of which it has several, by marker."""
    found: dict[str, set[str]] = {}
    for entry in read_file(path).get("package") or ():
        if entry.get("name") and entry.get("version"):
            found.setdefault(normalized(str(entry["name"])), set()).add(str(entry["version"]))
    return {name: versions.pop() for name, versions in found.items() if len(versions) == 1}


def read_file(path: Path) -> dict[str, Any]:
    """The content of a file of TOML; empty where there is none.

    Raises:
        OptionsError: It is no TOML.
    """
    try:
        return read_toml(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except ValueError as error:
        raise OptionsError(f"reading {path}", f"it is no TOML: {error}", "Mend the file.") from None


def table(content: Any, *keys: str) -> Any:
    """A table inside a document, or an empty one."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}


def _upward(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.parents


def _files_in(folder: Path) -> bool:
    return os.path.isfile(folder / "pyproject.toml") or os.path.isfile(folder / "uv.toml")


def _uv_settings(folder: Path) -> tuple[Path, Any] | None:
    if os.path.isfile(folder / "uv.toml"):
        return folder / "uv.toml", read_file(folder / "uv.toml")
    content = read_file(folder / "pyproject.toml")
    found = table(content, "tool").get("uv")
    return (folder / "pyproject.toml", found) if isinstance(found, Mapping) else None


def _is_member(folder: Path, root: Path, workspace: Mapping[str, Any]) -> bool:
    inside = folder.relative_to(root).as_posix()
    members, excluded = workspace.get("members") or (), workspace.get("exclude") or ()

    def among(globs: Any) -> bool:
        return any(_matches(inside, str(glob).removeprefix("./").rstrip("/")) for glob in globs)

    return among(members) and not among(excluded)


def _matches(path: str, glob: str) -> bool:
    """Whether a path is meant by a glob, in which a star stays inside one folder and two go deeper."""
    parts, globs = path.split("/"), glob.split("/")

    def match(p: int, g: int) -> bool:
        if g == len(globs):
            return p == len(parts)
        if globs[g] == "**":
            return any(match(n, g + 1) for n in range(p, len(parts) + 1))
        return p < len(parts) and fnmatchcase(parts[p], globs[g]) and match(p + 1, g + 1)

    return match(0, 0)


def _user_files(environ: Mapping[str, str]) -> Iterator[Path]:
    if environ.get("XDG_CONFIG_HOME"):
        yield Path(environ["XDG_CONFIG_HOME"], "uv", "uv.toml")
    elif environ.get("HOME"):
        yield Path(environ["HOME"], ".config", "uv", "uv.toml")
    if environ.get("APPDATA"):
        yield Path(environ["APPDATA"], "uv", "uv.toml")


def _system_files(environ: Mapping[str, str]) -> Iterator[Path]:
    for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep):
        yield Path(folder, "uv", "uv.toml")
    yield Path("/etc/uv/uv.toml")
    if environ.get("PROGRAMDATA"):
        yield Path(environ["PROGRAMDATA"], "uv", "uv.toml")
