"""The images: what a change of recipe or lock makes anew, and what is left alone."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from prefect_coiled.environment import Lock, Locked, Wheel
from tests.vm.images import RECIPES, Fetch, Images, Layer

PLACE = "opt/prefect-coiled/env/lib"


@pytest.fixture
def own(tmp_path: Path) -> Images:
    """A cache of its own."""
    return Images(tmp_path / "cache")


@pytest.fixture
def fetch(locked: Locked, tmp_path: Path) -> Fetch:
    """Gives the files of the client's environment."""
    return lambda wheel: locked.fetch(wheel, tmp_path)


def only(locked: Locked, *names: str) -> Lock:
    """A lock of some of the client's packages."""
    wheels = tuple(wheel for wheel in locked.lock.wheels if wheel.name in names)
    assert len(wheels) == len(names)
    return locked.lock.model_copy(update={"wheels": wheels})


def packages(layer: Layer) -> set[str]:
    """The packages in a layer."""
    return {f.name.split("-")[0] for f in layer.folder.glob(f"{PLACE}/*/site-packages/*.dist-info")}


def test_a_change_of_the_lock_makes_another_layer_and_nothing_else_does(
    own: Images, bare: list[Layer], locked: Locked, fetch: Fetch
) -> None:
    first = own.environment("packages", bare, only(locked, "toolz"), fetch)
    same = own.environment("packages", bare, only(locked, "toolz"), fetch)
    other = own.environment("packages", bare, only(locked, "toolz", "locket"), fetch)
    assert same.folder == first.folder
    assert same.cpu == 0 < first.cpu
    assert packages(first) == {"toolz", "uv"}
    assert packages(other) == {"toolz", "locket", "uv"}
    listed = (other.folder / "opt/prefect-coiled/installed").read_text().split()
    assert listed == sorted(wheel.key for wheel in only(locked, "toolz", "locket").files)


def test_a_layer_upon_another_holds_the_difference(
    own: Images, bare: list[Layer], locked: Locked, fetch: Fetch
) -> None:
    lower = only(locked, "toolz")
    first = own.environment("packages", bare, lower, fetch)
    upper = only(locked, "toolz", "locket")
    second = own.environment("environment", [first, *bare], upper, fetch, held=lower.files)
    assert packages(second) == {"locket"}


def test_a_layer_that_failed_is_not_taken_and_says_why(
    own: Images, bare: list[Layer], locked: Locked, tmp_path: Path
) -> None:
    def another(wheel: Wheel) -> Path:
        (path := tmp_path / wheel.file).write_text("not what the lock says")
        return path

    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"toolz-.*FAILED"):
            own.environment("packages", bare, only(locked, "toolz"), another)
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
