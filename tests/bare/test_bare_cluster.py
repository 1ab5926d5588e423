"""A cluster of bare machines: from the client's packages, through the bucket, to workers that compute."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import cloudpickle
import distributed
import pandas as pd
import pytest
from distributed import Client
from typer.testing import CliRunner

from prefect_coiled import Cluster
from prefect_coiled.cli import app
from prefect_coiled.environment import compare
from prefect_coiled.sandbox import Sandbox

from .conftest import dispensable

Until = Callable[..., Any]
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def sent(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function by value: the machines do not have the tests, and Dask sends by reference what it can."""
    return lambda: function()


# A module as people have them: state, a lock, a class, a data file; its package has no __init__.py.
TABLE = """
import threading
from importlib.resources import files
LOCK = threading.Lock()
COUNT = 0

class Row:
    def __init__(self, x): self.x = x

def work(row):
    global COUNT
    from own_shop.later import three
    with LOCK:
        COUNT += 1
    assert isinstance(row, Row)
    return Row(row.x + three()), COUNT, files("own_shop").joinpath("data/rows.csv").read_text(), \\
        [f.name for f in files("own_shop").iterdir() if f.name.startswith(".env")]
"""
OF_TWO = "def number():\n    from package_beside.inner import two\n    return two()\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a script, a module and a package beside it; the script is what runs."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "script.py").write_text("")
    (folder / "my_helpers.py").write_text("def number():\n    return 1\n")
    (folder / "package_beside").mkdir()
    (folder / "package_beside/__init__.py").write_text("")
    (folder / "package_beside/inner.py").write_text("def two():\n    return 2\n")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "own_shop/data").mkdir(parents=True)
    (elsewhere / "own_shop/.env").write_text("TOKEN=1")
    (elsewhere / "own_shop/data/rows.csv").write_text("1,2")
    (elsewhere / "own_shop/table.py").write_text(TABLE)
    (elsewhere / "own_shop/later.py").write_text("def three():\n    return 3\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(elsewhere))
        import_module("own_shop.table")
        patch.setattr(sys.modules["__main__"], "__file__", str(folder / "script.py"), raising=False)
        yield folder


def told(cluster: Cluster, step: str) -> str:
    """What the cluster said of a step last."""
    return [line for _, line in cluster._cluster_manager_logs if line.startswith(f"{step}: ")][-1]


@pytest.fixture(scope="module")
def cluster(default_account: None, project: Path) -> Iterator[Cluster]:
    with Cluster(
        n_workers=1,
        wait_for_workers=True,
        nthreads=1,
        package_sync_ignore=dispensable(),
        report=lambda step, state: None,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster) as connected:
        yield connected


def versions() -> dict[str, str]:
    import importlib.metadata

    return {d.name: d.version for d in importlib.metadata.distributions()}


def own_file() -> tuple[str, str]:
    import prefect_coiled

    return str(prefect_coiled.__file__), sys.prefix


def test_workers_have_the_clients_packages_in_the_clients_versions(client: Client) -> None:
    found = client.submit(sent(versions), pure=False).result()
    assert found["distributed"] == distributed.__version__
    assert found["pandas"] == pd.__version__
    assert "moto" not in found
    file, prefix = client.submit(sent(own_file), pure=False).result()
    assert "/root/opt/prefect-coiled/env" in prefix
    assert file.startswith(prefix)


def helpers() -> tuple[int, str]:
    import my_helpers  # type: ignore[import-not-found]

    return my_helpers.number(), my_helpers.__file__


def test_a_package_of_the_search_path_is_imported_on_machines_that_have_no_disk_of_the_client(
    client: Client,
) -> None:
    table = import_module("own_shop.table")
    done = client.gather([client.submit(table.work, table.Row(n), pure=False) for n in range(3)])
    assert [row.x for row, *_ in done] == [3, 4, 5]
    assert all(isinstance(row, table.Row) for row, *_ in done)
    assert max(count for _, count, *_ in done) == 3, "one module, imported once"
    assert {(rows, *hidden) for _, _, rows, hidden in done} == {("1,2",)}


def installed_helpers() -> int:
    from importlib import metadata

    return len(metadata.distribution("prefect-coiled-modules").files or ())


def test_modules_beside_the_script_are_importable_and_were_so_from_the_boot_on(client: Client) -> None:
    assert client.submit(sent(helpers), pure=False).result()[0] == 1
    assert client.submit(sent(installed_helpers), pure=False).result() > 3


def test_a_changed_module_reaches_the_workers_that_run_and_those_that_come_later(
    cluster: Cluster, client: Client, project: Path, until: Until
) -> None:
    assert client.submit(sent(helpers), pure=False).result()[0] == 1
    (project / "my_helpers.py").write_text(OF_TWO)
    names = cluster.sync_modules()
    assert set(names) >= {"my_helpers", "package_beside", "script"}
    assert set(names) & {"dask", "prefect_coiled", "pytest"} == set(), "what is installed"
    assert client.submit(sent(helpers), pure=False).result()[0] == 2
    assert client.run_on_scheduler(sent(helpers))[0] == 2
    cluster.scale(2)
    until(lambda: len(client.scheduler_info()["workers"]) == 2, 150)
    assert {n for n, _ in client.run(sent(helpers)).values()} == {2}


def test_a_second_start_moves_nothing_and_asks_for_the_list_of_the_bucket_alone(
    cluster: Cluster, sandbox: Sandbox
) -> None:
    assert "uploaded" in told(cluster, "environment")
    with Cluster(n_workers=0, package_sync_ignore=dispensable(), report=lambda step, state: None) as second:
        assert " packages, 1 uploaded (0." in told(second, "environment"), "the changed modules"
    sandbox.clear_calls()
    with Cluster(n_workers=0, package_sync_ignore=dispensable(), report=lambda step, state: None) as third:
        assert told(third, "environment").endswith("all in the bucket")
        assert [a for s, a in sandbox.calls() if s == "s3" and a in ("PUT", "POST")] == []


def compared(cluster: Cluster) -> tuple[int, list[dict[str, Any]]]:
    """What the command says of the cluster's machines."""
    ignored = [f"--ignore={name}" for name in dispensable()]
    done = CliRunner().invoke(app, ["environment", "diff", "--cluster", cluster.name, "--json", *ignored])
    assert done.stdout, done.output
    return done.exit_code, json.loads(done.stdout)


def test_the_files_of_a_clusters_machines_are_compared_with_those_here(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compared(cluster) == (0, [])
    # As if one file had another content here.
    real = compare.hash_of
    own = ("site-packages", "six.py")
    monkeypatch.setattr(compare, "hash_of", lambda p: "x" if p.parts[-2:] == own else real(p))
    code, (change,) = compared(cluster)
    assert code == 1
    assert (change["package"], change["files"]) == ("six", ["six.py"])
