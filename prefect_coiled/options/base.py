"""What all option models share: frozen, no unknown names, and errors of one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, SecretBytes, SecretStr, ValidationError

from prefect_coiled.errors import OptionsError
from prefect_coiled.options.kinds import shown


def unset(value: object) -> bool:
    """Whether a value means "not given": None, or the empty text that a form leaves behind."""
    return value is None or (isinstance(value, str) and not value.strip())


def refuse_blank(**given: object) -> None:
    """Refuse a blank text where whoever gives one means something: it would be taken for what was not said.

    Raises:
        OptionsError: One of these is blank, or no text; the message names it, by its keyword.
    """
    refuse_others_than_texts(**given)
    for name, value in given.items():
        if isinstance(value, str) and not value.strip():
            raise OptionsError(f"{name} {value!r}", "is blank.", "Leave it out, or give what is meant.")


def refuse_others_than_texts(**given: object) -> None:
    """Refuse what is neither a text nor None; it is not shown, for it may be a secret.

    Raises:
        OptionsError: One of these is something else; the message names it, by its keyword.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, str):
            raise OptionsError(f"{name} ({type(value).__name__}, not shown)", "it has to be a text.")


def near(value: object, allowed: Iterable[str], most: int = 1) -> str:
    """A "Did you mean" sentence when some of the allowed values are close, else nothing."""
    by_lower = {one.lower(): one for one in allowed}
    found = difflib.get_close_matches(str(value).lower(), by_lower, n=most, cutoff=0.6)
    return f"Did you mean {', '.join(repr(by_lower[one]) for one in found)}?" if found else ""


def check_known(given: Iterable[object], known: Collection[str], what: str, why: str) -> None:
    """Refuse a name that is none of those that are known.

    Args:
        what: What the error is about; in it and in `why`, {} stands for the name.

    Raises:
        OptionsError: There is one; its hint is the nearest name, or all of them.
    """
    for name in given:
        if name not in known:
            hint = near(name, known) or f"Known: {', '.join(known)}."
            raise OptionsError(what.replace("{}", repr(name)), why.replace("{}", repr(name)), hint)


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
    """The first thing that is wrong, as an `OptionsError` of one line.

    No value is shown of a field that may hold a secret, whatever its shape, nor the whole of what was given.
    """
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
    field = model.model_fields.get(names[0]) if names else None
    # A mapping or a list may hold what belongs elsewhere.
    hidden = (
        field is None
        or not isinstance(value, _SHOWN)
        or may_hold_secret(names[0], field.annotation)
        # Beside a secret, what is in one field may belong into the next.
        or any(_is_secret(f.annotation) for f in model.model_fields.values())
    )
    what = f"{name} ({type(value).__name__}, not shown)" if hidden else f"{name} {shown(value)}"
    if first["type"] == "literal_error" and field is not None and len(names) == 1:
        allowed = [str(a) for a in get_args(field.annotation)]
        return OptionsError(
            what, f"must be one of {', '.join(allowed)}.", "" if hidden else near(value, allowed)
        )
    # Words other than pydantic's own about types may repeat what was given.
    told = not hidden or first["type"].endswith(("_type", "_parsing"))
    why = f"{first['msg'].removeprefix('Value error, ')}." if told else "is not what this takes."
    return OptionsError(what.strip(), why)


_SHOWN = (str, int, float, type(None))
SOUNDS_SECRET = re.compile(r"secret|token|password|credential|_key\Z", re.I)


def _is_secret(annotation: Any) -> bool:
    return annotation in (SecretStr, SecretBytes) or any(map(_is_secret, get_args(annotation)))


def may_hold_secret(name: str, annotation: Any, _seen: tuple[Any, ...] = ()) -> bool:
    """Whether a field may hold a secret: by its name, by its type, or by a field of a model in it."""
    if SOUNDS_SECRET.search(name) or _is_secret(annotation):
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in _seen:
        fields = annotation.model_fields.items()
        return any(may_hold_secret(n, field.annotation, (*_seen, annotation)) for n, field in fields)
    return any(may_hold_secret("", part, _seen) for part in get_args(annotation))


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
