"""The table of AWS's rules: what is refused, with which code, and the page that says so.

    @rule("ec2", "CreateImage", "InvalidAMIName.Malformed", "An image's name has 3 to 128 characters", PAGE)
    def image_name(asked): return "why not"      # or None, or a `Refusal` with a code of its own

A rule that looks at what is there (`needs="account"`) is asked under the lock, after client tokens; one about
a launch when its template is merged; all others before DryRun. A rule that a correction or moto itself keeps
has a row too (`kept`), so that the table is whole.
`docs/sandbox.md` shows it, and every row has a test that it strikes.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

__all__ = ["Needs", "Refusal", "Row", "When", "kept", "rows", "rows_of", "rule"]

# When a rule counts: always, or by a setting.
When = Literal["always", "rates", "account", "time"]
Needs = Literal["", "account", "launch"]


class Refusal(NamedTuple):
    """What AWS answers: its code, its message, the HTTP status."""

    code: str
    message: str
    status: int = 400


@dataclass(frozen=True)
class Row:
    """One rule.

    Attributes:
        name: Its name in this table.
        service: As in the signature's scope, such as "ec2" or "logs".
        calls: Globs over API actions.
        code: AWS's error code.
        says: The rule in one sentence.
        source: The page that it comes from.
        when: "always", or the kind of setting that switches it on.
        check: Gives the message, or a refusal, or None; None for a rule that is kept elsewhere.
        needs: What the check takes: "" for the call alone, "account" for the call and what is in the account,
            "launch" for a `Launch`: its template's parameters under its own, and the account.
        status: The HTTP status.
    """

    name: str
    service: str
    calls: tuple[str, ...]
    code: str
    says: str
    source: str
    when: When = "always"
    check: Callable[..., Refusal | str | None] | None = None
    needs: Needs = ""
    status: int = 400

    def about(self, service: str, action: str) -> bool:
        """Whether the rule is about that call."""
        return service == self.service and any(fnmatch.fnmatchcase(action, glob) for glob in self.calls)

    def refusal(self, *given: Any) -> Refusal | None:
        """What AWS answers to the call, or None where it is well."""
        found = self.check(*given) if self.check else None
        return Refusal(self.code, found, self.status) if isinstance(found, str) else found


_ROWS: dict[str, Row] = {}


def _add(row: Row) -> None:
    if row.name in _ROWS:
        raise ValueError(f"two rules have the name {row.name}")
    _ROWS[row.name] = row


def rule(
    service: str,
    calls: str,
    code: str,
    says: str,
    source: str,
    *,
    when: When = "always",
    needs: Needs = "",
    status: int = 400,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a check into the table; its name is the function's.

    Args:
        service: See `Row`.
        calls: Globs, with spaces between them.
        code: See `Row`.
        says: See `Row`.
        source: See `Row`.
        when: See `Row`.
        needs: See `Row`.
        status: See `Row`.
    """

    def put(check: Callable[..., Any]) -> Callable[..., Any]:
        name = f"{service}-{check.__name__.strip('_').replace('_', '-')}"
        _add(Row(name, service, tuple(calls.split()), code, says, source, when, check, needs, status))
        return check

    return put


def kept(
    name: str, service: str, calls: str, code: str, says: str, source: str, when: When = "always"
) -> None:
    """A row for a rule that a correction, moto or another part of the sandbox keeps; see `Row`."""
    _add(Row(f"{service}-{name}", service, tuple(calls.split()), code, says, source, when))


def rows() -> Iterator[Row]:
    """All rules, by service."""
    from prefect_coiled.sandbox import rules

    rules.load()
    return iter(sorted(_ROWS.values(), key=lambda row: (row.service, row.name)))


@functools.lru_cache(maxsize=1024)
def rows_of(service: str, action: str, needs: Needs) -> tuple[Row, ...]:
    """The rules that are checked at that call."""
    return tuple(r for r in _ROWS.values() if r.check and r.needs == needs and r.about(service, action))
