"""What tasks may ask of the Prefect API through the relay: what is in the table, and nothing else.

`judge` reads a request, and gives what is to be sent in its place, and which runs it is about. Whether those
are the flow run's own is for `proof` to say. Pure: asks nobody.

Paths are put together anew from their parts, bodies from what was read in them, and of queries what a row
names: what is read here and what is read by the API cannot differ.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from prefect_coiled.relay.needs import INSTEAD, LARGEST, Needs, RefusedError, too_large
from prefect_coiled.relay.table import TABLE, Row


@dataclass(frozen=True)
class Judged:
    """A request that may go to the API, once what it needs is proven.

    Attributes:
        target: Path and query, below the API's own address.
        body: The body, read; None where there is none.
        narrow: See `Row`.
        answer: See `Row`.
    """

    method: str
    target: str
    body: Any
    needs: Needs
    narrow: tuple[str, str] | None
    answer: str


def judge(method: str, target: str, body: bytes) -> Judged:
    """What is to be asked of the API where a task asks this.

    Args:
        target: Path and query, as the task's HTTP client sent them.

    Raises:
        RefusedError: Tasks do not need it, or it is no such request.
    """
    path, _, query = target.partition("?")
    parts = _parts(path)
    for row in TABLE:
        if row.method == method and (found := _match(row.parts, parts)) is not None:
            break
    else:
        shown = "/".join(parts)
        raise RefusedError(
            403, f"The relay lets no {method} /{shown} through: tasks do not need it. {INSTEAD}"
        )
    needs = Needs()
    try:
        for kind, value in found:
            needs.note(kind, value)
        canonical = "/".join(quote(part, safe="") for part in parts)
        asked = _query(row, query, needs)
        content = _body(row, body, needs)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise RefusedError(400, f"The relay cannot read this {method} /{'/'.join(parts)}: {error}") from error
    end = "/" if row.path.endswith("/") else ""
    return Judged(
        method,
        f"/{canonical}{end}{f'?{asked}' if asked else ''}",
        content,
        needs,
        row.narrow,
        row.answer,
    )


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path; none that a server, or what is before it, could read in another way."""
    if not path.startswith("/") or len(path) > 2_000:
        raise RefusedError(400, "The relay takes paths alone, such as /flow_runs/.")
    found = path[1:].removesuffix("/").split("/")
    parts = []
    for raw in found:
        part = unquote(raw) if raw.isascii() else ""
        if not part or part in (".", "..") or re.search(r"[/\\%;\x00-\x1f\x7f\ufffd]", part):
            raise RefusedError(400, "The relay cannot read this path.")
        parts.append(part)
    return tuple(parts)


_IDS = ("flow_run", "task_run", "artifact", "flow", "deployment", "work_queue", "lease", "block_document")


def _match(pattern: tuple[str, ...], parts: tuple[str, ...]) -> list[tuple[str, str]] | None:
    if len(pattern) != len(parts):
        return None
    found = []
    for wanted, part in zip(pattern, parts, strict=True):
        if not wanted.startswith("{"):
            if wanted != part:
                return None
            continue
        kind = wanted[1:-1]
        if kind in _IDS and not _is_uuid(part):
            return None
        found.append((kind, part))
    return found


def _query(row: Row, query: str, needs: Needs) -> str:
    pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=20)
    for name, value in pairs:
        if name not in row.query:
            raise ValueError(f"the query {name!r} is not known here")
        if name in ("flow_run_id", "task_run_id"):
            needs.note(name.removesuffix("_id"), value)
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("something is said twice in the query")
    return urlencode(pairs)


def _body(row: Row, body: bytes, needs: Needs) -> Any:
    if len(body) > LARGEST:
        raise RefusedError(413, too_large(len(body)))
    if row.check is None:
        if body:
            raise ValueError("it has a body")
        return None
    content = json.loads(body or b"{}")
    row.check(content, needs)
    return content


def _is_uuid(text: str) -> bool:
    return re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text) is not None
