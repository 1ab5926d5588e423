"""pip finds what goes together at once: a new user waits for the downloads, and for nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_pip_resolves_this_package_with_all_extras_without_trying_many_versions(tmp_path: Path) -> None:
    """With the pip that comes with this Python, and nothing cached.

    aiobotocore takes a few releases of botocore only, and boto3 one each: what is chosen first decides.
    """
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True)
    resolving = ["install", "--dry-run", "--no-cache-dir", f"{ROOT}[sandbox,dataframe]"]
    done = subprocess.run(
        [str(tmp_path / "bin" / "pip"), *resolving], capture_output=True, text=True, check=False
    )
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("no package index")
    assert done.returncode == 0, done.stderr[-2000:]
    taken = Counter(re.findall(r"Downloading ([\w.]+?)-\d", done.stdout))
    assert taken["aiobotocore"] <= 2
    assert taken["boto3"] < 60  # it walks down from the newest, once
    assert sum(taken.values()) - len(taken) < 100, taken.most_common(5)  # that nothing came of
