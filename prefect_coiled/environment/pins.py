"""The files of packages whose versions are known, and their hashes: those of the client, for its machines."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect_coiled.environment import needs
from prefect_coiled.environment.ask import PackageNotFoundError, found_alone, name_of
from prefect_coiled.environment.contents import read_record
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.records import Environment, Package, is_version, normalized
from prefect_coiled.environment.target import Target
from prefect_coiled.environment.variants import home_of, label_of, public_of, where_to_say, with_backend
from prefect_coiled.errors import OptionsError

_NO_VERSION = (
    "its version is none of https://packaging.python.org/en/latest/specifications/version-specifiers/"
)


def compile_all(
    packages: Sequence[Package],
    target: Target,
    indexes: Indexes,
    strict: bool,
    notes: list[str],
    here: Container[str] = (),
    *,
    client: Environment | None = None,
) -> list[dict[str, Any]]:
    """All packages with their files, and what they need on Linux beyond what the client has.

    Args:
        strict: Whether another build of the same version is an error.
        here: Names of those that can be had without an index: they may be missing in the answer.
        client: All of the client's packages; without it, its system is taken to be the machines'.

    Raises:
        OptionsError: Packages cannot be had for the machines; they are named together.
    """
    client = client or Environment(
        python=target.python, platform=f"linux-{target.architecture}", packages=tuple(packages)
    )
    asked = _Asked(packages, client, target, indexes, strict, notes, here)
    return asked.all()


@dataclass
class _Asked:
    """The answers of the indexes for one list of packages."""

    packages: Sequence[Package]
    client: Environment
    target: Target
    indexes: Indexes
    strict: bool
    notes: list[str]
    here: Container[str]
    bad: dict[str, str] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)

    def all(self) -> list[dict[str, Any]]:
        like = needs.is_like(self.client, self.target)
        pins = {str(p): p for p in self.packages}
        self._choose_backend(pins)
        # What installs all of it is there in any case.
        tool = () if any(p.name == "uv" for p in self.packages) else ("uv",)
        # One of them would fail the question about all of them.
        self.bad |= {pin: _NO_VERSION for pin, p in pins.items() if not is_version(p.version)}
        found = self._alone([*(pin for pin in pins if pin not in self.bad), *tool], self.bad)
        found = self._exact(found, pins, like)
        for pin in [pin for pin in self.bad if pin in pins and pins[pin].name in self.here]:
            del self.bad[pin]
        for pin in [pin for pin in self.bad if pin in pins and pins[pin].origin == "system"]:
            if not self.strict:
                del self.bad[pin]
                self.notes.append(
                    f"{pin} is left out: it belongs to the operating system, and no index has it"
                )
        for pin in [pin for pin in self.bad if label_of(pin)]:
            found += self._released(pin, pins, like)
        if not like and not self.strict:
            for pin in [p for p in self.bad if p in pins and not label_of(p)]:
                if needs.needed_elsewhere_only(pins[pin].name, self.client, self.target):
                    del self.bad[pin]
                    self.notes.append(f"{pin} is left out: what requires it does so on another system only")
        if self.bad:
            raise self._unavailable(pins)
        if not like:
            found += self._beyond(found)
        return found

    def _alone(self, pins: Sequence[str], bad: dict[str, str]) -> list[dict[str, Any]]:
        return found_alone(pins, self.target, self.indexes, bad, self.chosen)

    def _choose_backend(self, pins: Mapping[str, Package]) -> None:
        for package in pins.values():
            if not self.indexes.settings.sources_of(package.name):
                told = with_backend(self.indexes, package.name, label_of(package.version))
                self.indexes = told or self.indexes

    def _exact(
        self, found: list[dict[str, Any]], pins: Mapping[str, Package], like: bool
    ) -> list[dict[str, Any]]:
        """The builds without a label where the client has such: `==2.3.0` is met by `2.3.0+cpu` too."""
        by_name = {p.name: pin for pin, p in pins.items()}
        kept = []
        for entry in found:
            pin = by_name.get(normalized(str(entry["name"])), "")
            version = str(entry.get("version", ""))
            if not pin or label_of(pin) or not label_of(version):
                kept.append(entry)
                continue
            other = self._alone([f"{pin},!={version}"], {}) if like else []
            if other and not label_of(str(other[0].get("version", ""))):
                kept += other
                continue
            if like and name_of(pin) in self.here:
                continue  # the build that is here is taken from its files
            if like and self.strict:
                self.bad[pin] = f"the index has it as {version}"
                continue
            self.notes.append(f"{pin} is {entry['name']}=={version} on the machines: so their index has it")
            kept.append(entry)
        return kept

    def _released(self, pin: str, pins: Mapping[str, Package], like: bool) -> list[dict[str, Any]]:
        """The released build instead of a local one, unless it needs another accelerator's parts."""
        name, label = name_of(pin), label_of(pin)
        self.hints[pin] = where_to_say(name, label, self.indexes)
        if self.strict:
            return []
        public = public_of(pin)
        found = self._alone([public], {})
        if not found:
            return []
        held = [p for p in pins if p not in self.bad]
        try:
            beyond = needs.needs_of(
                [public], [*held, public], self.client, self.target, self.indexes, self.chosen
            )
        except PackageNotFoundError as error:
            self.bad[pin] = f"{public} needs what no index has: {error.diagnosis.why}"
            return []
        if beyond and (like or label == "cpu"):
            self.bad[pin] = f"{public} is another build, and needs {needs.told(beyond, 4)}"
            return []
        del self.bad[pin]
        self.notes.append(f"{pin} is a local build that no index has: the machines get {public}")
        return found

    def _beyond(self, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What the machines need because they are not of the client's system."""
        pins = [f"{e['name']}=={e['version']}" for e in found if e.get("version") and e["name"] != "uv"]
        more = needs.requirements_of_built(self.client, pins)
        try:
            beyond = needs.needs_of([*pins, *more], pins, self.client, self.target, self.indexes, self.chosen)
        except PackageNotFoundError as error:
            raise OptionsError(
                f"what the packages need on Linux {self.target.architecture}",
                error.diagnosis.why[:600],
                "Name the index that has it; or leave out what needs it: package_sync_ignore=[...].",
            ) from None
        if beyond:
            self.notes.append(f"Linux needs, beyond what is installed here: {needs.told(beyond)}")
            self._tell_of_cpu(found, beyond)
        return beyond

    def _tell_of_cpu(self, found: Sequence[Mapping[str, Any]], beyond: Sequence[Mapping[str, Any]]) -> None:
        if not any(str(e["name"]).startswith("nvidia-") for e in beyond):
            return
        for entry in found:
            name = normalized(str(entry["name"]))
            if home_of(name, "cpu") and not label_of(str(entry.get("version", ""))):
                how = where_to_say(name, "cpu", self.indexes)
                self.notes.append(f"{name} has a smaller build, for the CPU alone. {how}")
                return

    def _unavailable(self, pins: Mapping[str, Package]) -> OptionsError:
        names = sorted(pins[pin].name if pin in pins else pin for pin in self.bad)
        parts = []
        for pin in sorted(self.bad):
            package = pins.get(pin)
            if package is not None and package.origin == "conda":
                parts.append(f"{pin} is made by conda and no index has it")
            elif self.bad[pin] == _NO_VERSION:
                parts.append(f"{pin} has a version that no index and no wheel can have")
            elif package is not None and package.record and not read_record(Path(package.record)):
                parts.append(
                    f"{pin} is on no index that is set up here, and its record ({package.record}) lists no "
                    "files that could be sent: install it anew"
                )
            elif label_of(pin):
                parts.append(f"{pin} is a local build that no index has")
            else:
                parts.append(
                    f"{pin} has no file for Linux {self.target.architecture} and Python {self.target.python}"
                )
        cause = f" ({self.bad[next(iter(self.bad))][:400]})" if len(self.bad) == 1 else ""
        hint = next((f"{self.hints[pin]} Or leave" for pin in sorted(self.bad) if pin in self.hints), "Leave")
        leave = f"them out: package_sync_ignore={names}; or name what to install: software=FILE."
        return OptionsError(
            f"packages for the machines: {'; '.join(parts)}{cause}",
            next_step=f"{hint} {leave}",
        )
