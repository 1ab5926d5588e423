"""The suite proves itself: faults are sown into the package, one at a time, and its tests have to fail.

python -m tests.mutants                  # all of them
python -m tests.mutants --only "lease"   # those with that in their name, or in that of a test
python -m tests.mutants --list
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
PACKAGE = "prefect_coiled"
# Seconds for the tests of one mutant: one that makes them hang is caught by that.
_LONGEST = 300.0
# What pytest exits with: all passed, some failed.
_PASSED, _FAILED = 0, 1


def applied(mutant: Mutant, source: str) -> str:
    """The source with the fault in it.

    Raises:
        ValueError: The text is not there once, or the fault changes nothing.
    """
    if (found := source.count(mutant.text)) != 1:
        raise ValueError(f"its text is found {found} times in {mutant.file}")
    if mutant.instead == mutant.text:
        raise ValueError("it changes nothing")
    return source.replace(mutant.text, mutant.instead)


@contextmanager
def server() -> Iterator[None]:
    """One Prefect server for all runs of tests: it is no part of what faults are sown into.

    Where the environment names one for suites, that.
    """
    if os.environ.get("PREFECT_COILED_SUITE_API"):
        yield
        return
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    # As tests/conftest.py has it.
    os.environ["PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL"] = "1"
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    with prefect_test_harness(server_startup_timeout=120):
        os.environ["PREFECT_COILED_SUITE_API"] = str(PREFECT_API_URL.value())
        yield
        del os.environ["PREFECT_COILED_SUITE_API"]


def copied(to: Path) -> None:
    """A tree of its own, of all that is in the checkout and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.check_output(command, cwd=ROOT, text=True).split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def run(tree: Path, tests: Sequence[str], seconds: float = _LONGEST) -> tuple[int | None, str]:
    """Run tests in the tree; what pytest exits with, None if it took too long, and what it printed."""
    python = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout", "120"]
    # First on the path: what is installed here is the checkout.
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    process = subprocess.Popen(
        [*python, *(f"tests/{test}" for test in tests)],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        return None, process.communicate()[0]
    except BaseException:  # whoever ends this ends them
        os.killpg(process.pid, signal.SIGTERM)
        raise
    return process.returncode, said


_sown = itertools.count()


@contextmanager
def sown(tree: Path, mutant: Mutant) -> Iterator[None]:
    """The tree with the fault in it, and as it was afterwards."""
    path = tree / PACKAGE / mutant.file
    before, times = path.read_text(), path.stat()
    path.write_text(applied(mutant, before))
    # Python knows what it compiled by second and size alone, which two mutants of one file may share.
    later = times.st_mtime_ns + (3600 + 2 * next(_sown)) * 10**9
    os.utime(path, ns=(times.st_atime_ns, later))
    try:
        yield
    finally:
        path.write_text(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # what was compiled of it is good again


def verdict(tree: Path, mutant: Mutant) -> str:
    """What became of a mutant, in words that begin with "caught" where all is well."""
    try:
        with sown(tree, mutant):
            code, said = run(tree, mutant.tests)
    except (ValueError, OSError) as error:
        return f"not to be applied any more: {error}"
    if code is None:
        return "caught by the time limit"
    if code == _FAILED:
        lines = said.splitlines()
        told = next((line for line in lines if line.startswith(("FAILED ", "ERROR "))), "FAILED a test")
        return f"caught by {told.partition(' ')[2][:200]}"
    if code == _PASSED:
        return "SURVIVED"
    return f"no test ran: {said.strip().splitlines()[-1] if said.strip() else code}"


def passes(tree: Path, mutants: Sequence[Mutant]) -> bool:
    """Whether the tests of the mutants pass without a fault; that they fail with one shows nothing else."""
    names = sorted({test for mutant in mutants for test in mutant.tests})
    print(f"{len(names)} tests of {len(mutants)} mutants, without a fault", flush=True)
    code, said = run(tree, names, seconds=_LONGEST * 6)
    if code != _PASSED:
        print(said, f"\nThe tests do not pass without a fault ({code}).")
    return code == _PASSED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutants that are asked for; 1 if one of them is not caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", default=[], help="part of a name or of a test's; may be given again"
    )
    parser.add_argument("--list", action="store_true", help="print names and tests, and run nothing")
    parser.add_argument("--at-once", action="store_true", help="do not see first that the tests pass")
    parser.add_argument("--table", type=Path, help="a file for the outcome, as JSON")
    given = parser.parse_args(arguments)
    chosen = [
        m for m in MUTANTS if not given.only or any(p in t for p in given.only for t in (m.name, *m.tests))
    ]
    if given.list or not chosen:
        for mutant in chosen:
            print(f"{mutant.name}\n    {mutant.file}: {', '.join(mutant.tests)}")
        return 0 if chosen else 2
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, server():
        tree = Path(folder).resolve()
        copied(tree)
        if not given.at_once and not passes(tree, chosen):
            return 1
        for mutant in chosen:
            began = time.monotonic()
            outcome = verdict(tree, mutant)
            seconds = round(time.monotonic() - began, 1)
            print(f"{outcome.partition(' by ')[0]:10} {seconds:6.1f} s  {mutant.name}", flush=True)
            rows.append({"mutant": mutant.name, "file": mutant.file, "outcome": outcome, "seconds": seconds})
            if given.table is not None:
                given.table.write_text(json.dumps(rows, indent=1) + "\n")
    wrong = [row for row in rows if not str(row["outcome"]).startswith("caught")]
    print(f"{len(rows) - len(wrong)} of {len(rows)} mutants caught")
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the tests that run end with this
    sys.exit(main())
