"""What Prefect's own tests demand of its default task runner holds for ours, or is listed with the reason.

`PREFECT_TESTS` names a folder with the `tests` of Prefect's repository, of about the installed release.
Those that submit tasks are asked: with threads first, which says which they are and which pass at all, then
with `CoiledTaskRunner`. `prefect_differs.txt` lists what passes with threads alone, and why.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = os.environ.get("PREFECT_TESTS", "")
FILES = [
    f"tests/test_{name}.py"
    for name in (
        "task_runners",
        "futures",
        "flow_engine",
        "task_engine",
        "transactions",
        "tasks",
        "flows",
        "assets",
        "context",
        "artifacts",
        "background_tasks",
        "locking",
    )
]
FILES += ["tests/engine", "tests/public", "tests/telemetry/test_run_telemetry.py"]
# Prefect's own settings of its tests, without what says how they are to be reported.
_SETTINGS = """[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = session
timeout = 900
"""
_ENVIRONMENT = {
    "PREFECT_TESTING_TEST_MODE": "1",
    "PREFECT_TESTING_UNIT_TEST_MODE": "1",
    "PREFECT_SERVER_LOGGING_LEVEL": "DEBUG",
}
_OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED) (tests/\S+?::.+?)(?: - .*)?$", re.M)


def outcomes(which: list[str], folder: Path, **environment: str) -> dict[str, str]:
    """What became of each test, by its id; one that also failed in its fixtures has failed."""
    (folder / "pytest.ini").write_text(_SETTINGS)
    # What Prefect's tests need beside Prefect, where `make upstream-test` has put it.
    needed = os.environ.get("PREFECT_TESTS_NEED", "")
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE), TESTS, needed, os.environ.get("PYTHONPATH", "")])
    options = ["-p", "prefect_plugin", "-p", "no:cacheprovider", "-c", str(folder / "pytest.ini")]
    options += ["--rootdir", TESTS, "-q", "-rpfE", "-W", "ignore", "--tb=short"]
    # Their server is started by the name of its program.
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *which],
        cwd=TESTS,
        env={**kept, **_ENVIRONMENT, **environment, "PYTHONPATH": path, "PATH": programs},
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / f"{environment.get('TASK_RUNNER', 'threads')}.log").write_text(done.stdout + done.stderr)
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-2000:]
    found: dict[str, str] = {}
    for outcome, test in _OUTCOME.findall(done.stdout):
        found[test] = outcome if found.get(test, "PASSED") == "PASSED" else found[test]
    return found


def passed(found: dict[str, str]) -> set[str]:
    return {test for test, outcome in found.items() if outcome == "PASSED"}


@pytest.mark.skipif(not TESTS, reason="PREFECT_TESTS does not name a folder with Prefect's tests")
@pytest.mark.timeout(5400)
def test_what_passes_with_threads_passes_on_a_cluster_or_is_listed(tmp_path: Path) -> None:
    submitted = tmp_path / "submitted"
    files = [file for file in FILES if Path(TESTS, file).exists()]
    threads = outcomes(files, tmp_path, SUBMITTED=str(submitted))
    selected = sorted(set(submitted.read_text().splitlines()) & set(threads))
    expected = passed(threads) & set(selected)
    ours = passed(outcomes(sorted(expected), tmp_path, TASK_RUNNER="ours"))
    if again := sorted(expected - ours):
        ours |= passed(outcomes(again, tmp_path, TASK_RUNNER="ours"))
    differs = sorted(expected - ours)
    print(f"\nselected {len(selected)}, passed with threads {len(expected)}, with ours {len(ours)}")
    print("\n".join(differs))
    lines = (HERE / "prefect_differs.txt").read_text(encoding="utf-8").splitlines()
    known = [line.partition(" | ")[0].strip() for line in lines if line and not line.startswith("#")]
    assert [one for one in differs if not any(fnmatchcase(one, k) for k in known)] == []
    assert [k for k in known if not any(fnmatchcase(one, k) for one in differs)] == [], "listed, and pass"
