"""Which files of a repository Git tracks though an ignore file names them.

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
    program = shutil.which("git")
    if program is None or not os.path.exists(repository / ".git"):
        return frozenset()
    environ = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    command = [program, "-C", str(repository), "ls-files", "-z", "-ci", "--exclude-standard"]
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
    files = [repository / os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    folders = {folder for file in files for folder in file.parents if repository in folder.parents}
    return frozenset({*files, *folders})
