"""Of moto's own tests, those that the sandbox's corrections break are those where AWS's documents say so.

`MOTO_TESTS` names a folder with the `tests` of moto's repository. `differs.txt` lists what breaks, and why.
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
TESTS = os.environ.get("MOTO_TESTS", "")
# What the sandbox corrects. The rest of moto is as it is.
FILES = [
    *(
        f"tests/test_ec2/test_{name}.py"
        for name in (
            "instances",
            "fleets",
            "launch_templates",
            "security_groups",
            "nat_gateway",
            "elastic_ip_addresses",
        )
    ),
    *(f"tests/test_{service}" for service in ("ssm", "logs", "iam", "s3")),
]
_OPTIONS = ["-p", "no:cacheprovider", "--rootdir", ".", "-q", "-rfE", "-W", "ignore", "--tb=no"]
_FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/\S+?::.+?)(?: - .*)?$", re.M)


def failures(which: list[str], *plugins: str) -> set[str]:
    """The tests that fail, by their ids."""
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")])
    ignored = ["--ignore", "tests/test_s3/test_s3_lambda_integration.py"]  # needs tests of other services
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, *_OPTIONS, *ignored, *which],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]
    return set(_FAILED.findall(done.stdout))


@pytest.mark.skipif(not TESTS, reason="MOTO_TESTS does not name a folder with moto's tests")
@pytest.mark.timeout(5400)
def test_motos_own_tests_break_only_where_aws_refuses_what_they_do() -> None:
    # Each in a process of its own: moto keeps what its tests made, with all images, which is gigabytes.
    broken = {one for path in FILES for one in failures([path], "-p", "with_corrections")}
    broken -= failures(sorted(broken)) if broken else set()
    lines = (HERE / "differs.txt").read_text(encoding="utf-8").splitlines()
    known = [line.partition(" | ")[0].strip() for line in lines if line and not line.startswith("#")]
    assert sorted(one for one in broken if not any(fnmatchcase(one, k) for k in known)) == []
    assert [k for k in known if not any(fnmatchcase(one, k) for one in broken)] == [], "listed, and pass"
