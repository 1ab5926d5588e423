"""What of a folder of modules stays here: secrets, what `.gitignore` says, what our own ignore file says.

Pure but for reading those files, and for asking Git what it tracks. It decides about one file at a time; who
walks asks.
"""

from __future__ import annotations

import os
import re
import stat
from functools import lru_cache
from pathlib import Path

import pathspec

from prefect_coiled.environment.tracked import tracked_though_ignored

IGNORE_FILE = ".coiledignore"
_GIT = ".gitignore"
# Names under which keys and passwords are kept.
_DATA = r"(json|ya?ml|toml|ini|cfg|csv|txt|xml)"
_SECRET = re.compile(
    r"^(\.env(\..*)?|.*\.env|.*[._]netrc|\.pypirc|\.pgpass|\.htpasswd|id_(rsa|dsa|ecdsa|ed25519)(_sk)?(\..*)?|"
    r".*\.(key|p12|pfx|jks|keystore|kdbx|ppk|ovpn|tfvars|tfstate)(\.backup)?|"
    rf"(.*[._-])?(secrets?|passwords?|passwd|api[_-]?keys?|access[_-]?token)((\.\w+)?\.{_DATA}(\.\w+)?)?|token\.txt|"
    rf"client[_-]?secret.*\.json|(.*[._-])?credentials(\.{_DATA})?|.*service[_-]?account.*\.json|"
    r"firebase-adminsdk.*\.json|kubeconfig(\..*)?|kaggle\.json|rclone\.conf)\Z",
    re.IGNORECASE,
)
# What such files hold, whatever they are called: keys, the fields of clouds' credentials, and tokens that
# have a form of their own so that they are found, as in
# https://docs.github.com/en/code-security/secret-scanning/introduction/supported-secret-scanning-patterns
_HELD = re.compile(
    rb"""-----BEGIN[ ][A-Z0-9 ]*PRIVATE[ ]KEY | PuTTY-User-Key-File-\d
    | secret_access_key["']?\s*[=:]\s*["']?[\w/+=]
    | "(private_key|refresh_token|access_token|client_secret)"\s*:\s*"[^"]
    | "auth"\s*:\s*"[\w/+=-]{12,}" | client-key-data:\s*[\w/+=]{16}
    | ^[ \t]*machine\s+\S+\s+login\s+\S+\s+password\s+\S
    | \b(gh[opusr]_[A-Za-z0-9]{36} | github_pat_\w{40} | glpat-[\w-]{20} | xox[abeprs]-[\w-]{10}
    | [rs]k_live_\w{16} | sk-ant-[\w-]{20} | pypi-AgE[\w-]{40} | npm_[A-Za-z0-9]{36} | dckr_pat_[\w-]{20}
    | hf_[A-Za-z]{34} | AIza[\w-]{35})""",
    re.VERBOSE | re.MULTILINE,
)
# Where tools keep them; a link may lead there.
_KEPT_IN = frozenset({".ssh", ".aws", ".azure", ".gnupg", ".kube", ".docker", "gcloud"})
# Never a part of a package, wherever they lie.
_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})
_UP = 12


def is_secret(name: str, content: bytes = b"") -> bool:
    """Whether a file holds a secret, by its name or by what it begins with.

    Args:
        content: What it holds, if that was read. A certificate alone is no secret; what is compiled may have
            the words of such files in it.
    """
    head = content[:65536]
    return bool(_SECRET.match(name) or (b"\0" not in head and _HELD.search(head)))


def leads_to_secret(path: Path) -> bool:
    """Whether a file that has another name is one of those behind a link, or lies where tools keep them."""
    true = Path(os.path.realpath(path))
    return true != path and (bool(_SECRET.match(true.name)) or not _KEPT_IN.isdisjoint(true.parts))


def is_environment(folder: Path) -> bool:
    """Whether a folder is one of installed packages, of caches or of another language's modules."""
    # https://docs.python.org/3/library/venv.html#how-venvs-work
    # Not by pathlib, which raises where a folder may not be read.
    marks = (os.path.join(folder, name) for name in ("pyvenv.cfg", "conda-meta"))
    return folder.name in _FOLDERS or any(map(os.path.exists, marks))


class Ignored:
    """What the ignore files in a folder, above it and below it say.

    Args:
        root: The folder in which a search for modules begins.
        tracked: What Git said of repositories; others that look into the same ones need not ask again.
    """

    def __init__(self, root: Path, tracked: dict[Path, frozenset[Path]] | None = None) -> None:
        self.root = root
        self._above = _project(root)
        self._tracked = {} if tracked is None else tracked

    def is_ours_there(self) -> bool:
        """Whether an ignore file of ours lies in the folder or above it."""
        places = [p for p in (self.root, *self.root.parents) if self._above in (p, *p.parents)]
        return any(_spec(place / IGNORE_FILE) is not None for place in places)

    def by_us(self, path: Path, folder: bool = False) -> str:
        """Which of our ignore files leaves a path out; empty where none does."""
        return self._by(path, IGNORE_FILE, folder)

    def by_git(self, path: Path, folder: bool = False) -> str:
        """The same of git's; what Git tracks they do not leave out (https://git-scm.com/docs/gitignore)."""
        said = self._by(path, _GIT, folder)
        return "" if said and self._is_tracked(path) else said

    def _is_tracked(self, path: Path) -> bool:
        if self._above not in self._tracked:
            self._tracked[self._above] = tracked_though_ignored(self._above)
        return path in self._tracked[self._above]

    def _by(self, path: Path, name: str, folder: bool) -> str:
        said = ""
        for place in reversed(path.parents):
            if self._above not in (place, *place.parents):
                continue
            # What makes an environment in a folder ignores all that is in it, for Git's sake.
            if name == _GIT and os.path.exists(place / "pyvenv.cfg"):
                continue
            spec = _spec(place / name)
            if spec is None:
                continue
            inside = path.relative_to(place).as_posix() + ("/" if folder else "")
            # What is nearer counts more, also where it takes something back ("!kept.csv").
            result = spec.check_file(inside)
            if result.include is not None:
                said = str(place / name) if result.include else ""
        return said


def _project(root: Path) -> Path:
    """The folder of the repository that a folder is in, or the highest with an ignore file of ours."""
    places = (root, *list(root.parents)[:_UP])
    repository = next((place for place in places if os.path.exists(place / ".git")), None)
    return repository or next((p for p in reversed(places) if os.path.exists(p / IGNORE_FILE)), root)


def _spec(path: Path) -> pathspec.GitIgnoreSpec | None:
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None  # a pipe, say, of which nothing comes
    return _read(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=256)
def _read(path: Path, changed: int, size: int) -> pathspec.GitIgnoreSpec | None:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    # A line that is no pattern is skipped, as git does.
    return pathspec.GitIgnoreSpec.from_lines([line for line in lines if _is_pattern(line)])


def _is_pattern(line: str) -> bool:
    try:
        pathspec.GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True
