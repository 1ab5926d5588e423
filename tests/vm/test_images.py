"""The images: what a change of recipe or lock makes anew, and what is left alone."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.vm.images import RECIPES, Images, Layer

PLACE = "opt/prefect-coiled/env/lib"


@pytest.fixture
def own(tmp_path: Path) -> Images:
    """A cache of its own."""
    return Images(tmp_path / "cache")


def test_a_change_of_the_lock_makes_another_layer_and_nothing_else_does(
    own: Images, bare: list[Layer]
) -> None:
    first = own.environment("packages", bare, ["toolz==1.0.0"])
    same = own.environment("packages", bare, ["toolz==1.0.0"])
    other = own.environment("packages", bare, ["toolz==1.1.0"])
    assert same.folder == first.folder
    assert same.cpu == 0 < first.cpu
    assert [f.name for f in first.folder.glob(f"{PLACE}/*/site-packages/toolz-*")] == [
        "toolz-1.0.0.dist-info"
    ]
    assert [f.name for f in other.folder.glob(f"{PLACE}/*/site-packages/toolz-*")] == [
        "toolz-1.1.0.dist-info"
    ]


def test_a_layer_that_failed_is_not_taken_and_says_why(own: Images, bare: list[Layer]) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"no-such-package"):
            own.environment("packages", bare, ["no-such-package-of-anybody==1.0"])
    assert list(own.cache.glob("packages-*")) == []


def test_a_change_of_the_recipe_makes_another_image(tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    shutil.copytree(RECIPES, recipes)
    asked: list[str] = []

    def build(command: Sequence[str], log: Path) -> None:
        # mmdebstrap takes a minute: that it is asked is enough here, the other tests boot what it makes.
        target = Path(next(word for word in command if "unfinished" in word))
        target.mkdir(parents=True)
        asked.append(target.name)

    images = Images(tmp_path / "cache", recipes, build)
    before = images.bare()[-1]
    images.bare()
    assert asked.count("unfinished-bare") == 1
    recipe = recipes / "recipe.sh"
    recipe.write_text(recipe.read_text().replace("iproute2", "iproute2 less"))
    assert images.bare()[-1].folder != before.folder
    assert asked.count("unfinished-bare") == 2
