"""What all option models share: frozen, no unknown names, and errors of one line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from prefect_coiled.errors import OptionsError


def unset(value: object) -> bool:
    """Whether a value means "not given": None, or the empty text that a form leaves behind."""
    return value is None or (isinstance(value, str) and not value.strip())


def near(value: object, allowed: Sequence[str]) -> str:
    """A "Did you mean" sentence when one of the allowed values is close, else nothing."""
    match = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.6)
    return f"Did you mean {match[0]!r}?" if match else ""


class OptionsModel(BaseModel):
    """A frozen model that refuses unknown names and raises `OptionsError` instead of a multi-line dump."""

    label: ClassVar[str] = ""
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise one_line(type(self), error) from None


def one_line(model: type[BaseModel], error: ValidationError) -> OptionsError:
    """The first thing that is wrong, as an `OptionsError` of one line; secrets are never in it."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, OptionsError):
        return cause
    names = [str(part) for part in first["loc"] if not str(part).startswith("function-")]
    name = ".".join([getattr(model, "label", ""), *names]).strip(".")
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        known = sorted(model.model_fields)
        return OptionsError(
            f"option {name!r}", "there is no such option.", near(name, known) or f"Known: {', '.join(known)}."
        )
    if first["type"] == "missing":
        return OptionsError(f"option {name!r}", "is required but was not given.")
    shown = "(a secret)" if isinstance(value, SecretStr) or "token" in name else repr(value)
    if first["type"] == "literal_error":
        allowed = list(get_args(model.model_fields[names[0]].annotation)) if len(names) == 1 else []
        hint = near(value, [str(a) for a in allowed])
        text = f"must be one of {', '.join(map(str, allowed))}." if allowed else f"{first['msg']}."
        return OptionsError(f"{name} {shown}", text, hint)
    return OptionsError(f"{name} {shown}", f"{first['msg'].removeprefix('Value error, ')}.")


def renamed(data: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The mapping under its present-day names, without what is not set; a name given twice is refused."""
    out: dict[str, Any] = {}
    for raw, value in data.items():
        if unset(value):
            continue
        spelled = str(raw).replace("-", "_")
        name = aliases.get(spelled, spelled)
        if name in out:
            raise OptionsError(f"option {name!r}", f"was given twice, the second time as {raw!r}.")
        out[name] = value
    return out
