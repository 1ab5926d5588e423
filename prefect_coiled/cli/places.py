"""More places than one: the same looked for in all regions, in all accounts, or in both.

What fails in one place is said, and keeps no other from being looked at; the exit code is 1 then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import typer

from prefect_coiled.cli.common import tell_error
from prefect_coiled.cli.declare import At
from prefect_coiled.errors import OptionsError, PrefectCoiledError

if TYPE_CHECKING:
    from prefect_coiled.aws.loaded_account import Account

T = TypeVar("T")


class Place(NamedTuple):
    """An account in a region."""

    account: str
    region: str


@dataclass
class Everywhere(At):
    """Where a command looks: at one account in one region, or at all."""

    all_regions: Annotated[bool, typer.Option("--all-regions", help="Look in all regions.")] = False
    all_accounts: Annotated[
        bool, typer.Option("--all-accounts", help="Look at all accounts that have a block.")
    ] = False

    def __post_init__(self) -> None:
        for all_, one in (("regions", self.region), ("accounts", self.account)):
            if getattr(self, f"all_{all_}") and one is not None:
                raise OptionsError(f"--all-{all_}", f"goes without --{all_[:-1]} {one}.")
        self.failed = False

    @property
    def many(self) -> bool:
        """Whether that is more than one place."""
        return self.all_regions or self.all_accounts

    @property
    def columns(self) -> tuple[str, ...]:
        """Of a table of what is in more than one place."""
        return ("ACCOUNT", "REGION") if self.many else ()

    @property
    def whose(self) -> str:
        """The account, or all."""
        return "any account" if self.all_accounts else f"account {self.loaded.slug}"

    @property
    def whereabouts(self) -> str:
        """Where that is, as the end of a sentence."""
        if self.failed:
            return "what could be looked at."
        if not self.many:
            return str(self)
        if self.all_regions:
            return "any region."
        return f"{self.region}." if self.region else "the region of its block."

    def each(
        self, look: Callable[[At], list[T]], among: Collection[Place] | None = None, at_once: int = 8
    ) -> list[tuple[Place, T]]:
        """What there is in each place, one after the other; what fails is said on standard error.

        Args:
            among: Only these places.
        """
        from prefect_coiled.internals.python import side_by_side

        def tried(one: At) -> tuple[list[T], PrefectCoiledError | None]:
            try:
                return look(one), None
            except PrefectCoiledError as error:
                return [], error

        if not self.many:
            return [(Place(self.loaded.slug, self.aws.region), found) for found in look(self)]
        places = [
            one for one in self._found if among is None or Place(one.loaded.slug, one.aws.region) in among
        ]
        answers = side_by_side(tried, places, at_once)
        refused: dict[tuple[str, str], list[tuple[str, PrefectCoiledError]]] = {}
        for one, (_, error) in zip(places, answers, strict=True):
            if error is not None:
                key = (one.loaded.slug, str(error).replace(one.aws.region, ""))
                refused.setdefault(key, []).append((one.aws.region, error))
        for (slug, _), errors in refused.items():
            self._say(f"account {slug} in {', '.join(region for region, _ in errors)}", errors[0][1])
        return [
            (Place(one.loaded.slug, one.aws.region), found)
            for one, (listed, _) in zip(places, answers, strict=True)
            for found in listed
        ]

    def end(self) -> None:
        """Exit with 1 if a place could not be looked at."""
        if self.failed:
            raise typer.Exit(1)

    def _say(self, what: str, error: PrefectCoiledError) -> None:
        self.failed = True
        d = error.diagnosis
        told = PrefectCoiledError(f"{what}: {d.what}", d.why, d.next_step)
        told.left = error.left
        tell_error(told)

    @functools.cached_property
    def _found(self) -> list[At]:
        return list(self._places())

    def _places(self) -> Iterator[At]:
        from prefect_coiled.options.models import REGIONS

        for loaded in self._accounts():
            try:
                own = loaded.door().region
            except PrefectCoiledError as error:
                if not self.all_accounts:
                    raise
                self._say(f"account {loaded.slug}", error)
                continue
            regions = [own, *(r for r in REGIONS if r != own)] if self.all_regions else [self.region or own]
            for region in regions:
                one = At(loaded.slug, region)
                one.__dict__["loaded"] = loaded  # which is looked up once for all regions
                yield one

    def _accounts(self) -> Iterator[Account]:
        from prefect_coiled.blocks.asking import reading_here
        from prefect_coiled.blocks.loading import DEFAULT_ACCOUNT, find_accounts, load_account

        if not self.all_accounts:
            yield self.loaded
            return
        with reading_here():
            names = [str(document.name) for document in find_accounts()]
        if DEFAULT_ACCOUNT not in names and (not names or _sandbox_runs()):
            names.append(DEFAULT_ACCOUNT)
        for name in names:
            try:
                with reading_here():
                    loaded = load_account(name)
            except PrefectCoiledError as error:
                self._say(f"account {name}", error)
            else:
                yield loaded


def _sandbox_runs() -> bool:
    """Whether there is a sandbox to look at; none is started for that."""
    from prefect_coiled.sandbox import status

    return status() is not None
