"""The command line starts the background sandbox with the data plane that is asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys


def test_the_background_sandbox_has_the_data_plane_that_is_asked_for(possible, tmp_path, link_of):
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "NO_COLOR": "1", "COLUMNS": "200"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "prefect_coiled.cli", "sandbox", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120)

    try:
        started = run("start", "--plane", "netns")
        assert started.returncode == 0, started.stderr
        told = re.search(r"data plane: netns. Your address there: (198\.19\.\d+\.1)$", started.stdout, re.M)
        assert told, started.stdout
        assert link_of(told[1])
        assert run("start").stdout == started.stdout
        other = run("start", "--plane", "process")
        assert other.returncode != 0
        assert 'data plane is "netns"' in other.stderr
    finally:
        run("stop")
    assert link_of(told[1]) == ""
