"""A notebook: the cluster comes up in one cell, is used in the next, and shows itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from prefect_coiled.events import Event
from prefect_coiled.subscribers.notebook import CellBoard

START = """
import json
import prefect_coiled.sandbox.control as control
info = control.SandboxInfo(**json.loads({told!r}))
control.ensure_started = lambda: info
"""
CELLS = [
    "from prefect_coiled import Cluster\ncluster = Cluster(n_workers=1, wait_for_workers=True)",
    "from dask.distributed import Client\nclient = Client(cluster)\nclient.submit(sum, [1, 2, 3]).result()",
    "cluster",
    """
from prefect import flow, task
from prefect_coiled import CoiledTaskRunner

@task
def double(x):
    return 2 * x

@flow(task_runner=CoiledTaskRunner(name=cluster.name))
def doubles():
    return double.map([1, 2]).result()

doubles()
""",
    "client.close()\ncluster.close()\nprint(cluster.removal)",
]


def results(cell: Any) -> list[str]:
    """What the cell's last line came to."""
    return [o.data["text/plain"] for o in cell.outputs if o.output_type == "execute_result"]


@pytest.mark.timeout(300)
def test_a_notebook_makes_a_cluster_in_one_cell_and_computes_in_the_next(
    told: str,
    environ: dict[str, str],
    live: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = [nbformat.v4.new_code_cell(c) for c in [START.format(told=told), *CELLS]]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=200, kernel_name="python3").execute(env=environ)
    _, made, computed, shown, flow, closed = notebook.cells
    # One output, updated in place until all is there; beside it are Prefect's log lines alone.
    (board,) = [o for o in made.outputs if "<div>Cluster of" in o.get("data", {}).get("text/html", "")]
    table = board.data["text/html"]
    for step in ("account default", "network", "instances", "scheduler", "workers"):
        assert f"<b>{step}</b>" in table
    assert "the sandbox on this machine" in table
    assert "1 ready (of 1)" in table
    assert "token=" not in table
    assert results(computed) == ["6"]
    # Dask's own widget, with ipywidgets there, and HTML beside it.
    (data,) = [
        o.data for o in shown.outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})
    ]
    assert "Cluster" in data["text/html"]
    assert results(flow) == ["[2, 4]"]
    assert any("instances" in o.get("text", "") for o in closed.outputs)
    assert live() == []


def test_the_board_updates_one_output_and_always_shows_the_last_state(until: Callable[..., Any]) -> None:
    pytest.importorskip("IPython")
    seen: list[str] = []

    class Handle:
        def update(self, shown: Any) -> None:
            seen.append(shown.data)

    def display(text: str) -> Handle:
        seen.append(text)
        return Handle()

    board = CellBoard("<one>", display)
    for n in range(100):
        board(Event("workers", f"{n} ready (of 99)", step="workers"))
    until(lambda: "99 ready (of 99)" in seen[-1], 5)
    assert len(seen) < 20
    assert "&lt;one&gt;" in seen[-1]
    assert "&#9696;" in seen[0]
    assert "&#10003;" in seen[-1]
