"""Imports go round nowhere: not for types alone, and not inside functions either."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp

# Scripts know `Account` by the place that it had at first.
_KNOWN = {("prefect_coiled.aws.credentials", "prefect_coiled.aws.loaded_account")}


def test_no_two_modules_import_each_other() -> None:
    graph = grimp.build_graph("prefect_coiled", cache_dir=None)
    imports = {
        module: {
            one for one in graph.find_modules_directly_imported_by(module) if (module, one) not in _KNOWN
        }
        for module in graph.modules
    }
    assert imports["prefect_coiled.cluster.cluster"]
    TopologicalSorter(imports).prepare()  # an error that shows the circle
