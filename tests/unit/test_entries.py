"""What an index says is not believed where it becomes a name of a file or a folder."""

from __future__ import annotations

from typing import Any

import pytest
from packaging.tags import Tag

from prefect_coiled.environment.entries import pick, source_of
from prefect_coiled.errors import OptionsError

TAGS = [Tag("py3", "none", "any")]
FILE = "six-1.17.0-py3-none-any.whl"
GOOD = "0" * 64


def wheel(**told: Any) -> dict[str, Any]:
    file = {"url": f"https://index.example/{FILE}", "name": FILE, "hashes": {"sha256": GOOD}, **told}
    return {"name": "six", "version": "1.17.0", "wheels": [file]}


def test_an_entry_in_order_is_taken() -> None:
    found = pick(wheel(), TAGS)
    assert found is not None
    assert (found.name, found.file, found.sha256) == ("six", FILE, GOOD)


@pytest.mark.parametrize(
    "entry",
    [
        wheel(hashes={"sha256": "../../../.bashrc"}),
        wheel(hashes={"sha256": f"{GOOD}\n"}),
        wheel(name="six-1.17.0-py3-none-any./../../x.whl"),
        {**wheel(), "name": "../six"},
        {**wheel(), "name": ".."},
        {**wheel(), "name": "/tmp/six"},
    ],
)
def test_names_and_hashes_that_lead_elsewhere_are_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match="not in order"):
        pick(entry, TAGS)


@pytest.mark.parametrize("sha256", ["../x", "A" * 64])
def test_so_are_those_of_sources(sha256: str) -> None:
    sdist = {"url": "https://index.example/six-1.17.0.tar.gz", "hashes": {"sha256": sha256}}
    with pytest.raises(OptionsError, match="not in order"):
        source_of({"name": "six", "version": "1.17.0", "sdist": sdist})
