"""Write docs/keywords.md from the table of keywords. A test holds the page to the table."""

from __future__ import annotations

import inspect
from pathlib import Path

from prefect_coiled.blocks import Ec2DaskAccount
from prefect_coiled.options.keywords import KEYWORDS, PREFIX, ClusterOptions, Keyword
from prefect_coiled.task_runner import CoiledTaskRunner

PAGE = Path(__file__).parent.parent / "docs" / "keywords.md"
_HEAD = f"""# All keywords

Each keyword of `Cluster` and of `CoiledTaskRunner`, as `scripts/write_keywords_page.py` writes them from the
one table in the code. Those at the end of the first table are for `Cluster` alone;
[those of the task runner alone](#of-the-task-runner-alone) stand below it.

- A variable `{PREFIX}` with the keyword in capitals gives it to the runs of flows with a
  `CoiledTaskRunner`; a `Cluster` made by hand and the commands do not read it. Its text is read as what the
  keyword takes: text stays as it is (`CONTAINER=1.10`), lists and mappings are JSON, names may be parted by
  commas.
- True and false are read as Prefect reads its settings: `true`, `1`, `yes`, `on`, `t`, `y` and `false`, `0`,
  `no`, `off`, `f`, `n`, in any case. Anything else is refused.
- What a keyword does not take is an error of one line that names it, before anything is launched.
- `None` means that nothing is said, but for times: there it means never.
- Which place wins is told in [Options and precedence](options.md#four-places).

| keyword | takes | default | in `coiled.yaml`, below `coiled` | |
|---|---|---|---|---|
"""

_ALONE = """
## Of the task runner alone

As prefect-dask's `DaskTaskRunner` has them. Of the first three one at most is given, and with it nothing of
the table above but `api_relay`; without them each run of the flow has a `Cluster` of its own.

| keyword | takes | |
|---|---|---|
"""
# What the signature does not say.
_ABOUT = {
    "cluster": ("a Dask cluster that runs", "The flow's tasks go to it, and it stays."),
    "address": ("a scheduler's address", "The same for one of another process."),
    "cluster_class": (
        "a class of clusters, or its import path",
        "Each run makes one of that class, and closes it: `distributed.LocalCluster`, say.",
    ),
    "cluster_kwargs": ("a mapping", "Of the class; for `Cluster` the same as the keywords themselves."),
    "adapt_kwargs": (
        "a mapping",
        "What `cluster.adapt()` is called with: `{'minimum': 1, 'maximum': 20}`, say. The cluster then grows "
        "and shrinks with the work; see [Recipes](recipes.md).",
    ),
    "client_kwargs": ("a mapping", "Of the Dask client that submits the tasks."),
    "performance_report_path": ("a path", "Where Dask's report of the run goes, as HTML."),
}


def _default(one: Keyword) -> str:
    return one.otherwise or ("" if one.default is None else f"`{one.default!r}`")


def _row(one: Keyword) -> str:
    place = ": ".join(part.replace("_", "-") for part in one.place)
    about = one.about + (" Not shown in errors." if one.secret else "")
    if one.block:
        about += f" In the account block: {Ec2DaskAccount.model_fields[one.block].title}."
    takes = "one of the [regions](options.md#regions)" if one.name == "region" else one.kind.words
    return f"| `{one.name}` | {takes} | {_default(one)} | {f'`{place}`' if place else ''} | {about} |"


def page() -> str:
    """The whole page."""
    runner = [one for name, one in KEYWORDS.items() if name in ClusterOptions.__annotations__]
    own = [one for name, one in KEYWORDS.items() if name not in ClusterOptions.__annotations__]
    alone = [name for name in inspect.signature(CoiledTaskRunner).parameters if name in _ABOUT]
    assert set(alone) == set(_ABOUT)
    rows = [f"| `{name}` | {_ABOUT[name][0]} | {_ABOUT[name][1]} |" for name in alone]
    return _HEAD + "\n".join(map(_row, [*runner, *own])) + "\n" + _ALONE + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
