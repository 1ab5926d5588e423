"""Which files of a repository Git tracks, also though an ignore file names them.

"Files already tracked by Git are not affected" (https://git-scm.com/docs/gitignore).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_SECONDS = 30
# By these Git would look into another repository, as in a hook of that one.
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


def tracked_though_ignored(repository: Path) -> frozenset[Path]:
    """The files that are tracked and ignored, and the folders that they lie in; none if Git does not say."""
    if not os.path.exists(repository / ".git"):
        return frozenset()
    files = tracked(repository, "-i", "--exclude-standard")
    return files | {folder for file in files for folder in file.parents if repository in folder.parents}


def tracked(folder: Path, *options: str) -> frozenset[Path]:
    """The files in a folder that Git tracks; none if it does not say.

    Args:
        options: Which of them.
    """
    program = shutil.which("git")
    if program is None:
        return frozenset()
    environ = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    command = [program, "-C", str(folder), "ls-files", "-z", "-c", *options]
    try:
        done = subprocess.run(
            command,
            env={**environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    return frozenset(folder / os.fsdecode(name) for name in done.stdout.split(b"\0") if name)
