"""The sources of what is built here: a commit of a repository, or a copy of a directory.

A build with setuptools leaves `build/` and `.egg-info` beside the sources, and takes what an earlier one left
into the wheel: a module that was deleted since would be in it. So it runs in a copy.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from prefect_coiled.environment.ignored import Ignored
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.projects import find_project, table
from prefect_coiled.environment.records import Package, read_toml
from prefect_coiled.environment.tracked import tracked
from prefect_coiled.errors import OptionsError

_SECONDS = 600
# https://packaging.python.org/en/latest/specifications/pyproject-toml/#build-system: what counts without one.
_DEFAULT_BACKEND = "setuptools.build_meta"
_LEFT_OUT = frozenset({"__pycache__", "node_modules"})
_COPIED_BYTES, _MOST_COPIED = 1_000_000, 1_000_000_000
# They leave nothing beside the sources, or what their own tools keep there to be quick the next time, such as
# maturin's `target`. Others may be setuptools under another name, as pbr.build is.
_CLEAN = frozenset(
    {
        "flit_core.buildapi",
        "hatchling.build",
        "maturin",
        "mesonpy",
        "poetry.core.masonry.api",
        "scikit_build_core.build",
        "uv_build",
    }
)


def backend_of(source: Path) -> str:
    """What builds a directory, such as "hatchling.build"."""
    return str(table(_described(source), "build-system").get("build-backend") or _DEFAULT_BACKEND)


def _described(source: Path) -> Mapping[str, Any]:
    """The pyproject.toml of a directory; nothing where there is none that can be read."""
    try:
        return read_toml((source / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _leaves_nothing(source: Path) -> bool:
    """Whether what builds a directory is known to leave nothing in it."""
    content = _described(source)
    # A backend of its own, or a script that poetry-core runs, may do anything.
    own = table(content, "build-system").get("backend-path") or table(content, "tool", "poetry").get("build")
    return backend_of(source) in _CLEAN and not own


def needs_copy(source: Path) -> bool:
    """Whether a directory is not to be built where it is.

    A build with setuptools writes beside the sources, and reads what earlier ones wrote; any fails at what is
    no file, or does not end; and of large data that shall stay here none is to be read.
    """
    if not _leaves_nothing(source) or Ignored(source).is_ours_there():
        return True
    for where, names, files in os.walk(source):
        folder = Path(where)
        names[:] = [n for n in names if not n.startswith(".") and n not in _LEFT_OUT]
        if any(_is_trap(folder / name, source) for name in (*names, *files)):
            return True
    return False


def _is_trap(path: Path, source: Path) -> bool:
    """Whether it is no file and no folder, as an editor's lock, or a link that leads back."""
    if not os.path.isfile(path) and not os.path.isdir(path):
        return True
    above = (p for p in path.parents if source in (p, *p.parents))
    return path.is_symlink() and os.path.realpath(path) in {os.path.realpath(p) for p in above}


def copied_beside(source: Path, scratch: Path) -> Path:
    """A copy of a project, beside links to what lies beside it and above it: a build may read of that.

    So do tools that look for the repository, for other members of a workspace, which a build may require,
    and for paths such as `../VERSION`.

    Raises:
        OptionsError: A file cannot be read.
    """
    source = source.resolve()
    repository = next((p for p in source.parents if os.path.exists(p / ".git")), source.parent)
    root = min(
        (repository, find_project(source).root or repository, source.parent), key=lambda p: len(p.parts)
    )
    target = scratch / "copy" / source.relative_to(root)
    target.parent.mkdir(parents=True)
    copied(source, target)
    for folder in source.parents:
        if root not in (folder, *folder.parents):
            break
        here = scratch / "copy" / folder.relative_to(root)
        for name in _listed(folder):
            if name != ".git" and not os.path.exists(here / name):
                (here / name).symlink_to(folder / name)
        _same_repository(folder, here)
    return target


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []  # a folder that may be passed through and not listed


def copied(source: Path, target: Path) -> Path:
    """A copy of a project without what builds, tools and editors leave in it.

    Raises:
        OptionsError: A file cannot be read.
    """
    ignored = Ignored(source)

    def left_out(folder: str, names: list[str]) -> set[str]:
        here = Path(folder)
        out = {n for n in names if n in _LEFT_OUT or n.endswith(".egg-info")}
        # Hidden folders are of tools; a hidden file may be a setting of the build.
        out |= {n for n in names if n.startswith(".") and os.path.isdir(here / n)} | {".git"}
        out |= {n for n in names if os.path.exists(here / n / "pyvenv.cfg")}
        # A folder of another user, such as that of a database, is no part of what is built.
        out |= {n for n in names if os.path.isdir(here / n) and not os.access(here / n, os.R_OK | os.X_OK)}
        out |= {n for n in names if _is_trap(here / n, source)}
        out |= {n for n in names if _is_data(here / n) and ignored.by_us(here / n)}
        if here == source:
            out |= {n for n in ("build", "dist") if not os.path.exists(here / n / "__init__.py")}
        return out & set(names)

    try:
        shutil.copytree(source, target, ignore=left_out, copy_function=_Copying(source))
    except shutil.Error as error:
        said = "; ".join(f"{path}: {why}" for path, _, why in error.args[0][:3])
        raise OptionsError(f"copying {source} to build it", said) from None
    _same_repository(source, target)
    return target


def _same_repository(source: Path, target: Path) -> None:
    """Have tools that ask Git which files belong to a project find the repository; they change nothing."""
    git, here = source / ".git", target / ".git"
    if os.path.isdir(git):
        here.write_text(f"gitdir: {git.resolve()}\n")
    elif os.path.isfile(git):  # a worktree or a submodule, whose files Git would look for where they are
        true = source / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        common = true / "commondir"
        rest = common.read_text(encoding="utf-8").strip() if common.is_file() else "."
        # Its own place in the repository, as of a worktree: https://git-scm.com/docs/gitrepository-layout
        here.mkdir()
        (here / "commondir").write_text(f"{(true / rest).resolve()}\n")
        for file in [true / "HEAD", true / "index", *true.glob("sharedindex.*")]:
            if file.is_file():
                shutil.copy(file, here)


def _is_data(path: Path) -> bool:
    """Whether a file is too large to be code, which a build may write to."""
    return os.path.isfile(path) and path.stat().st_size > _COPIED_BYTES


class _Copying:
    """Copies code, and data that Git tracks, which a build may ask Git for.

    Other data is linked to, so that no start waits for gigabytes that lie beside a package.
    """

    def __init__(self, source: Path) -> None:
        self._source, self._copied = source, 0

    def __call__(self, source: str, target: str) -> str:
        path = Path(source)
        if _is_data(path) and (os.path.islink(path) or not self._is_asked_for(path)):
            os.symlink(os.path.realpath(source), target)
            return target
        return str(shutil.copy2(source, target))

    def _is_asked_for(self, path: Path) -> bool:
        if path not in self._tracked or self._copied + (size := path.stat().st_size) > _MOST_COPIED:
            return False
        self._copied += size
        return True

    @cached_property
    def _tracked(self) -> frozenset[Path]:
        return tracked(self._source)


def as_installed(package: Package) -> Mapping[str, str]:
    """Environment variables that give a project its installed version, where it would ask Git for one.

    So it is what `importlib.metadata` says here, and the wheel does not change with each commit.
    """
    if package.origin not in ("directory", "vcs"):
        return {}
    name = re.sub(r"[-_.]+", "_", package.name).upper()
    return {
        # https://setuptools-scm.readthedocs.io/en/latest/overrides/; hatch-vcs asks without the name
        "SETUPTOOLS_SCM_PRETEND_VERSION": package.version,
        f"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_{name}": package.version,
        # https://backend.pdm-project.org/metadata/#dynamic-project-version
        "PDM_BUILD_SCM_VERSION": package.version,
        # https://docs.openstack.org/pbr/latest/user/packagers.html
        "PBR_VERSION": package.version,
        "GIT_OPTIONAL_LOCKS": "0",
    }


# Asked by Git for one address alone, so that no other host gets them: a redirect, or a submodule.
_HELPER = (
    '!f() { test "$1" != get || '
    r"""printf 'username=%s\npassword=%s\n' "$PREFECT_COILED_GIT_USER" "$PREFECT_COILED_GIT_PASSWORD"; }; f"""
)


def _credentials_apart(url: str) -> tuple[str, dict[str, str]]:
    """An address without what it says of user and password, and variables by which Git knows them.

    The arguments of processes, and of those that Git starts with the address, are for all users to see.
    https://git-scm.com/docs/gitcredentials, https://git-scm.com/docs/git-config#ENVIRONMENT
    """
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    if not at or parts.scheme not in ("http", "https"):
        return url, {}
    name, _, password = user.partition(":")
    said = [("username", unquote(name))]
    if password:
        # The empty one takes back what is configured elsewhere.
        said = [("helper", ""), ("helper", _HELPER)]
    there = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    environ = {
        "GIT_CONFIG_COUNT": str(there + len(said)),
        "PREFECT_COILED_GIT_USER": unquote(name),
        "PREFECT_COILED_GIT_PASSWORD": unquote(password),
    }
    for n, (key, value) in enumerate(said, there):
        environ[f"GIT_CONFIG_KEY_{n}"] = f"credential.{parts.scheme}://{place}.{key}"
        environ[f"GIT_CONFIG_VALUE_{n}"] = value
    return urlunsplit(parts._replace(netloc=place)), environ


def clone(package: Package, target: Path, indexes: Indexes) -> Path:
    """The files of a commit.

    Args:
        package: From a repository, with the commit.

    Raises:
        OptionsError: The repository does not give it; in Git's own words.
    """
    what = f"fetching {package} from {package.url}"
    program = shutil.which("git")
    if program is None:
        raise OptionsError(what, "there is no git", "Install git, or a released version of it.")
    # pip's form of an SSH address; Git has its own.
    url = package.url.removeprefix("git+")
    for told in (url, package.commit):
        if told.startswith("-"):  # Git would take it for an option, and some of these run programs
            raise OptionsError(what, f"{told!r} is neither an address nor a commit.")

    url, known = _credentials_apart(url)

    def git(*arguments: str) -> None:
        command = [program, "-C", str(target), *arguments]
        environ = {**os.environ, "GIT_TERMINAL_PROMPT": "0", **known}
        try:
            done = subprocess.run(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OptionsError(what, indexes.redacted(str(error))) from None
        if done.returncode:
            # The reason stands before what Git says last.
            said = " ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
            raise OptionsError(what, indexes.redacted(said)[:600] or f"git {arguments[0]} failed")

    target.mkdir()
    git("init", "--quiet")
    git("remote", "add", "origin", url)
    try:
        # By its hash, so that a commit is found that no branch holds, such as one of a pull request.
        git("fetch", "--quiet", "--depth", "1", "origin", package.commit)
    except OptionsError as error:
        try:
            # A server that gives no single commits: all that it has, the heads of pull requests among it.
            git("fetch", "--quiet", "--tags", "origin", "+refs/*:refs/remotes/origin/*")
            git("cat-file", "-e", f"{package.commit}^{{commit}}")
        except OptionsError:
            raise error from None
    git("checkout", "--quiet", package.commit)
    git("submodule", "update", "--quiet", "--init", "--recursive")
    return target
