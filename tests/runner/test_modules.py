"""A user's own modules on workers of other processes: imported there, wherever the program found them."""

from __future__ import annotations

import importlib
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from distributed.security import Security
from prefect import flow, task
from prefect.flows import load_flow_from_entrypoint

from prefect_coiled.cluster import modules as sending
from prefect_coiled.errors import OptionsError, TaskLostError
from prefect_coiled.task_runner import CoiledTaskRunner

Write = Callable[[dict[str, str]], None]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is the working directory, as of a worker process that runs a deployment."""
    before = dict(sys.modules)
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in set(sys.modules) - set(before):
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def write(project: Path) -> Write:
    def put(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))

    return put


def forget(name: str) -> None:
    """As a new process does not know a module yet."""
    for known in [n for n in sys.modules if n.partition(".")[0] == name]:
        del sys.modules[known]
    importlib.invalidate_caches()


SHOP = {
    "shop/__init__.py": """
        import threading
        ENGINE = threading.RLock()  # stands for an engine, a client, a pool
        COUNT = 0

        class Row:
            def __init__(self, x): self.x = x

        def bump():
            global COUNT
            with ENGINE:
                COUNT += 1
                return COUNT
        """,
    "shop/later.py": """
        from importlib.resources import files
        def rows(): return files("shop").joinpath("rows.csv").read_text()
        """,
    "shop/rows.csv": "1,2",
    "bare_folder/calc.py": "def two(): return 2",
    "bare_folder/other.py": "def three(): return 3",
}
REPORT = """
    import threading
    import shop, bare_folder.calc
    from near_report import near
    from shop import Row
    from prefect import flow, task
    from prefect_coiled.task_runner import CoiledTaskRunner

    GUARD = threading.Lock()
    CALLS = 0

    @task
    def work(row):
        global CALLS
        import bare_folder.other, shop.later
        assert isinstance(row, Row)
        with GUARD:
            CALLS += 1
        return Row(row.x + 1), shop.bump(), CALLS, (
            bare_folder.calc.two(), bare_folder.other.three(), shop.later.rows(), near())

    @flow
    def report():
        @task
        def inside(n):
            with GUARD:
                return n + bare_folder.calc.two()

        with GUARD:
            futures = [work.submit(Row(n)) for n in range(8)]
            rows, counts, calls, other = zip(*(f.result() for f in futures))
        assert all(isinstance(row, Row) for row in rows)
        return max(counts), max(calls), set(other), inside.submit(1).result()
    """


@pytest.mark.long
@pytest.mark.parametrize("file", ["report_a", "queue"])
def test_a_deployments_flow_and_the_package_beside_its_folder_are_imported_on_the_workers(
    runner: CoiledTaskRunner, project: Path, write: Write, file: str
) -> None:
    # The second has a name that is taken, so that Prefect loads it under another one.
    write({**SHOP, f"flows/{file}.py": REPORT, "flows/near_report.py": "def near(): return 'near'"})
    deployed: Any = load_flow_from_entrypoint(f"flows/{file}.py:report")
    counts, calls, other, inside = deployed.with_options(task_runner=runner)()
    assert other == {(2, 3, "1,2", "near")}
    assert inside == 3
    # Two processes had eight tasks: each has one state of the module, and one of the flow's file.
    assert counts >= 4
    assert calls >= 4


@pytest.mark.long
def test_relative_imports_of_a_flows_file_work_as_prefects_loader_makes_them_work(
    runner: CoiledTaskRunner, write: Write
) -> None:
    write(
        {
            "flows/relative.py": """
                from prefect import flow, task

                @task
                def work():
                    from .near_relative import near
                    return near()

                @flow
                def report():
                    return work.submit().result()
                """,
            "flows/near_relative.py": "def near(): return 'near'",
        }
    )
    deployed: Any = load_flow_from_entrypoint("flows/relative.py:report")
    assert deployed.with_options(task_runner=runner)() == "near"


@pytest.mark.long
def test_what_changed_since_the_last_flow_run_is_imported_anew(
    runner: CoiledTaskRunner, project: Path, write: Write
) -> None:
    sys.path.insert(0, str(project))

    def run() -> int:
        @task
        def use() -> int:
            import own_uses  # type: ignore[import-not-found]

            return int(own_uses.value())

        @flow(task_runner=runner)
        def uses() -> int:
            return use.submit().result()

        forget("own_value")
        forget("own_uses")
        importlib.import_module("own_uses")
        return uses()

    write({"own_uses.py": "from own_value import X\ndef value(): return X", "own_value.py": "X = 1"})
    assert run() == 1
    write({"own_value.py": "X = 2"})
    assert run() == 2


def test_what_a_flow_imports_after_its_first_task_reaches_the_workers(
    runner: CoiledTaskRunner, project: Path, write: Write
) -> None:
    write({"lib/own_late.py": "class Row: ...", "own_early.py": "class Row: ..."})
    # As what is generated: it is sent once it is imported.
    write({".git/config": "", ".gitignore": "made.py", "own_kit/__init__.py": "", "own_kit/made.py": "X = 3"})
    sys.path.insert(0, str(project))
    early = importlib.import_module("own_early")
    importlib.import_module("own_kit")

    @task
    def echo(x: Any = None) -> Any:
        return x

    @task
    def made() -> int:
        found: int = importlib.import_module("own_kit.made").X
        return found

    @flow(task_runner=runner)
    def imports() -> bool:
        echo.submit().result()
        sys.path.insert(0, str(project / "lib"))
        late = importlib.import_module("own_late")
        importlib.import_module("own_kit.made")
        assert made.submit().result() == 3
        write({"own_early.py": "raise RuntimeError('edited while the flow runs')"})
        return isinstance(echo.submit(late.Row()).result(), late.Row) and early.Row in {
            type(row) for row in echo.map([early.Row(), early.Row()]).result()
        }

    assert imports()


def test_a_flow_may_close_over_what_cannot_be_sent(runner: CoiledTaskRunner) -> None:
    guard = threading.Lock()

    @task
    def one() -> int:
        return 1

    @flow(task_runner=runner)
    def guarded() -> int:
        with guard:
            return one.submit().result()

    assert guarded() == 1


def test_flow_runs_with_different_modules_of_one_name_are_not_mixed_on_one_cluster(
    runner: CoiledTaskRunner,
    dask_cluster: LocalCluster,
    security: Security,
    project: Path,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sys.path.insert(0, str(project))
    write({"own_shared.py": "X = 1"})
    importlib.import_module("own_shared")

    @flow(task_runner=runner)
    def mine() -> int:
        @task
        def use() -> int:
            import own_shared  # type: ignore[import-not-found]

            return int(own_shared.X)

        return use.submit().result()

    # Another program, which is at work there.
    with Client(dask_cluster.scheduler_address, security=security) as other:
        theirs = sending.Modules({"own_shared.py": b"X = 'theirs'"})
        with monkeypatch.context() as patch:
            patch.setattr(sending, "process_id", lambda: "another process")
            other.sync(
                sending.send_modules, other.scheduler, theirs, client=other.id, title="flow run 'theirs'"
            )
        with pytest.raises(OptionsError, match=r"module 'own_shared': flow run 'theirs' is at work .*rename"):
            mine()
    # It is over.
    assert mine() == 1


@pytest.mark.long
def test_a_module_that_workers_lack_is_named_with_what_to_do(
    runner: CoiledTaskRunner, project: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path.insert(0, str(project))
    write({".coiledignore": "own_kept.py", "own_kept.py": "class Row: ...", "own_seen.py": ""})
    kept = importlib.import_module("own_kept")

    @task
    def echo(x: Any) -> Any:
        return x

    @task
    def lazily() -> Any:
        import own_nowhere  # type: ignore[import-not-found]  # noqa: F401

    @flow(task_runner=runner)
    def sends() -> Any:
        return echo.submit(kept.Row()).result()

    with pytest.raises(TaskLostError) as lost:
        sends()
    text = str(lost.value)
    assert "could not start on its worker: ModuleNotFoundError: No module named 'own_kept'" in text
    assert f"{project / 'own_kept.py'} stays here, by {project / '.coiledignore'}" in text
    assert "out of memory" not in text

    @flow(task_runner=runner)
    def imports() -> Any:
        future = lazily.submit()
        future.wait()
        return future.state.message

    assert "The workers have no 'own_nowhere'. A package has to be installed where the flow runs" in imports()


def test_a_package_that_came_after_the_cluster_is_named_with_its_version(
    runner: CoiledTaskRunner, project: Path, write: Write
) -> None:
    write(
        {
            "site/own_late.py": "class Row: ...",
            "site/own_late-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: own-late\nVersion: 1.2\n",
            "site/own_late-1.2.dist-info/RECORD": "own_late.py,,\nown_late-1.2.dist-info/METADATA,,\n",
            "site/own_late-1.2.dist-info/top_level.txt": "own_late\n",
        }
    )
    sys.path.insert(0, str(project / "site"))
    late = importlib.import_module("own_late")

    @task
    def echo(x: Any) -> Any:
        return x

    @flow(task_runner=runner)
    def sends() -> Any:
        return echo.submit(late.Row()).result()

    with pytest.raises(TaskLostError) as lost:
        sends()
    text = str(lost.value)
    assert "No module named 'own_late'" in text
    assert "It comes with own-late 1.2, which is installed here." in text
    assert "A package has to be installed where the flow runs before the cluster starts" in text
    assert "out of memory" not in text


def test_a_cluster_inside_the_program_has_its_modules(project: Path, write: Write) -> None:
    sys.path.insert(0, str(project))
    write({"own_inside.py": "COUNT = 0\ndef bump():\n    global COUNT\n    COUNT += 1\n    return COUNT\n"})
    inside = importlib.import_module("own_inside")

    @task
    def bump() -> int:
        return int(inside.bump())

    with LocalCluster(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:

        @flow(task_runner=CoiledTaskRunner(cluster=cluster))
        def bumps() -> list[int]:
            return [f.result() for f in [bump.submit() for _ in range(3)]]

        assert sorted(bumps()) == [1, 2, 3]
    assert inside.COUNT == 3
    assert sys.modules["own_inside"] is inside


def test_a_scheduler_that_takes_no_functions_works_without_the_modules_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        LocalCluster(n_workers=0, blocked_handlers=["run_function"], dashboard_address=None) as closed,
        Client(closed) as client,
        caplog.at_level("WARNING"),
    ):
        modules = sending.Modules({"own_rows.py": b"", "own_pack/__init__.py": b""})
        client.sync(sending.send_modules, client.scheduler, modules)
    assert "takes no functions (blocked_handlers), so machines lack: own_pack, own_rows" in caplog.text
