"""What distributed's own tests ask of any cluster holds for `Cluster`, on machines of the sandbox.

`DISTRIBUTED` names a checkout of distributed's repository, whose wheels and archives have no tests.
`deploy_plugin` says which tests, and why not the others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKOUT = os.environ.get("DISTRIBUTED", "")


@pytest.mark.skipif(not CHECKOUT, reason="DISTRIBUTED names no checkout of distributed")
@pytest.mark.timeout(5400)
def test_distributeds_tests_of_clusters_pass(tmp_path: Path) -> None:
    # Apart from the rest of the checkout, which would go before the distributed that is installed.
    shutil.copytree(Path(CHECKOUT) / "distributed" / "deploy" / "tests", tmp_path / "deploy_tests")
    shutil.copy(Path(CHECKOUT) / "conftest.py", tmp_path)
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    plugin = ["-p", "deploy_plugin", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    here = {**os.environ, "PYTHONPATH": path}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-v", "-ra", "--timeout", "600", *plugin, "deploy_tests"],
            cwd=tmp_path,
            env=here,
            check=False,
        )
    finally:
        subprocess.run([sys.executable, "-m", "prefect_coiled.cli", "sandbox", "stop"], env=here, check=True)
    assert done.returncode == 0
