"""Every Python example of the README and the docs runs, page by page, in order, against a sandbox."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_coiled import Ec2DaskAccount

from .conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\s*$")
_NOT_RUN = "<!-- not run:"
# These are about making and removing clusters; the others attach to one that runs, by `coiled.name`.
_MAKE_THEIR_OWN = {"clusters", "containers", "gpu", "recipes"}
# What a newcomer reads; the other pages are run by `make long-test`.
_FIRST = {"README"}


def blocks(page: Path, language: str) -> list[tuple[int, list[str]]]:
    """The blocks of a language: the number of lines before each, and its lines."""
    found: list[tuple[int, list[str]]] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    inside, begun = "", 0
    for n, line in enumerate(lines):
        fence = _FENCE.match(line)
        if not fence:
            continue
        if not inside:
            inside, begun = fence[1] or "text", n + 1
            continue
        before = next((text for text in reversed(lines[: begun - 1]) if text.strip()), "")
        if inside == language and not before.startswith(_NOT_RUN):
            found.append((begun, lines[begun:n]))
        inside = ""
    return found


def script(page: Path) -> str:
    """All Python blocks of a page, each line at the number that it has in the page."""
    text: list[str] = []
    for begun, lines in blocks(page, "python"):
        text += [""] * (begun - len(text)) + lines
    return "\n".join(text) + "\n" if text else ""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, id=p.stem, marks=() if p.stem in _FIRST else pytest.mark.long)
        for p in PAGES
        if script(p)
    ],
)
def test_the_python_examples_of_the_page_run(
    page: Path, environ: dict[str, str], running_cluster: str, tmp_path: Path
) -> None:
    # The account that the pages speak of is here a sandbox; a page may save another one over it.
    Ec2DaskAccount(region="us-east-1", sandbox=True).save("my-team", overwrite=True)
    file = tmp_path / f"{page.stem.replace('-', '_')}.py"
    file.write_text(script(page), encoding="utf-8")
    own = page.stem in _MAKE_THEIR_OWN
    env = environ if own else {**environ, "DASK_COILED__NAME": running_cluster}
    done = subprocess.run(
        [sys.executable, str(file)], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, f"{page.name}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_the_examples_leave_nothing_running(environ: dict[str, str], running_cluster: str) -> None:
    from prefect_coiled.sandbox import status

    found = status()
    assert found is not None
    assert found.instances == 2, "the scheduler and the worker of the tests' own cluster, and no others"


def test_an_example_is_left_out_only_where_the_page_says_why() -> None:
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith(_NOT_RUN):
                assert re.fullmatch(r"<!-- not run: .{8,} -->", line), f"{page.name}: {line}"
