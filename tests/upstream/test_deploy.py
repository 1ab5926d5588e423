"""What distributed's own tests ask of any cluster holds for `Cluster`, on machines of the sandbox.

`DISTRIBUTED` names a checkout of distributed's repository, whose wheels and archives have no tests.
`judged` says which tests, and why not the others. `DASK_CLOUDPROVIDER` names a checkout of
dask-cloudprovider, whose tests of its cluster of EC2 machines are asked likewise (`ec2_plugin`).
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_coiled.options import elsewhere

ROOT = Path(__file__).parents[2]
CHECKOUT = os.environ.get("DISTRIBUTED", "")
CLOUDPROVIDER = os.environ.get("DASK_CLOUDPROVIDER", "")


def ask(folder: Path, plugin: str, *tests: str) -> int:
    """Run some tests of others with a plugin of ours, in a process of its own; then the sandbox ends."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    options = ["-p", plugin, "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "--timeout", "600"]
    here = {**os.environ, "PYTHONPATH": path}
    try:
        command = [sys.executable, "-m", "pytest", "-v", "-ra", *options, *tests]
        return subprocess.run(command, cwd=folder, env=here, check=False).returncode
    finally:
        stop = [sys.executable, "-m", "prefect_coiled.cli", "sandbox", "stop"]
        subprocess.run(stop, env=here, check=True)


@pytest.mark.skipif(not CHECKOUT, reason="DISTRIBUTED names no checkout of distributed")
@pytest.mark.timeout(5400)
def test_distributeds_tests_of_clusters_pass(tmp_path: Path) -> None:
    # Apart from the rest of the checkout, which would go before the distributed that is installed.
    shutil.copytree(Path(CHECKOUT) / "distributed" / "deploy" / "tests", tmp_path / "deploy_tests")
    shutil.copy(Path(CHECKOUT) / "conftest.py", tmp_path)
    assert ask(tmp_path, "deploy_plugin", "--runslow", "deploy_tests") == 0


@pytest.mark.skipif(not CLOUDPROVIDER, reason="DASK_CLOUDPROVIDER names no checkout of dask-cloudprovider")
@pytest.mark.timeout(1800)
def test_cloudproviders_tests_of_ec2_clusters_pass(tmp_path: Path) -> None:
    shutil.copy(Path(CLOUDPROVIDER) / "dask_cloudprovider" / "aws" / "tests" / "test_ec2.py", tmp_path)
    assert ask(tmp_path, "ec2_plugin", "test_ec2.py") == 0


@pytest.mark.parametrize(
    ("tool", "file", "name"),
    [
        ("dask-cloudprovider's EC2Cluster", f"{CLOUDPROVIDER}/dask_cloudprovider/aws/ec2.py", "EC2Cluster"),
        (
            "dask-cloudprovider's EC2Cluster",
            f"{CLOUDPROVIDER}/dask_cloudprovider/generic/vmcluster.py",
            "VMCluster",
        ),
        ("the hosted service's Cluster", os.environ.get("HOSTED_CLUSTER", ""), "Cluster"),
    ],
    ids=["EC2Cluster", "VMCluster", "hosted"],
)
def test_every_keyword_of_anothers_cluster_is_the_same_another_or_refused(
    tool: str, file: str, name: str
) -> None:
    if not Path(file).is_file():
        pytest.skip("DASK_CLOUDPROVIDER or HOSTED_CLUSTER does not name it")
    judged = {*elsewhere.SAME[tool], *elsewhere.OTHER[tool], *elsewhere.TABLES[tool]}
    found = keywords_of(Path(file).read_text(encoding="utf-8"), name)
    assert {one for one in found if not one.startswith("_")} - judged == set()


def keywords_of(source: str, name: str) -> set[str]:
    """The keywords of a class, without importing what it imports."""
    (made,) = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef) and n.name == name)
    (init,) = (n for n in made.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    return {a.arg for a in (*init.args.args, *init.args.kwonlyargs)} - {"self"}
