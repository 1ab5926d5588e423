"""What both blocks share: no misspelt fields, errors of one line, and what another release saved."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from prefect_coiled.blocks.masked import keep_named
from prefect_coiled.errors import OptionsError
from prefect_coiled.internals.prefect import block_of, loaded_from
from prefect_coiled.options.base import check_known, one_line

# The square AWS mark that prefect-aws shows on its own blocks. Prefect keeps an address, not a picture: where
# browsers cannot reach that one, another is named by this variable when the types are registered.
AWS_LOGO = os.environ.get("PREFECT_COILED_LOGO_URL") or (
    "https://cdn.sanity.io/images/3ugk85nk/production/d74b16fe84ce626345adf235a47008fea2869a60-225x225.png"
)
# Errors of pydantic's repeat what was given, which may be a secret of the wrong shape.
NO_INPUT = ConfigDict(hide_input_in_errors=True)
DOCUMENTATION = "https://docs.prefect.io/integrations/prefect-dask"


if TYPE_CHECKING:
    from prefect.client.schemas.objects import BlockDocument


# Of each kind of block: the core schema that it was made of, and its JSON schemas by the arguments.
_SCHEMAS: WeakKeyDictionary[type, tuple[Any, dict[Any, dict[str, Any]]]] = WeakKeyDictionary()


def what_is_wrong(cls: type[BaseModel], error: Exception, data: Mapping[str, Any]) -> OptionsError:
    """Why a block cannot be made of this, in one line without secrets."""
    if isinstance(error, OptionsError):
        return error
    if isinstance(error, ValidationError):
        return one_line(cls, error)
    # A validator of prefect-aws's that met another shape than it knows.
    for name, value in data.items():
        try:
            _piece(cls.model_fields[name], value)
        except Exception as cause:
            if type(cause) is type(error):
                return OptionsError(f"{name} ({type(value).__name__}, not shown)", "has the wrong shape.")
    return OptionsError(cls.__name__, f"cannot be made of this ({type(error).__name__}).")


def age_of(cls: type[BaseModel], document: BlockDocument) -> str:
    """A sentence about the release that saved a document, where it has other fields than this one."""
    fields = cls.model_fields
    schema = document.block_schema.fields.get("properties", {}) if document.block_schema else {}
    newer = sorted({*schema, *document.data} - {*fields, "block_type_slug"})
    older = sorted(
        n for n in fields if n not in document.data and (n not in schema or fields[n].is_required())
    )
    if newer:
        return f"A newer release may have saved it, with {', '.join(newer)}: upgrade prefect-dask-ec2."
    if older:
        return f"An older release may have saved it, without {', '.join(older)}: edit it and save it again."
    return ""


def _piece(field: Any, value: Any) -> Any:
    return TypeAdapter(Annotated[field.annotation, field]).validate_python(value)


class StrictFields:
    """Mixed into a block: refuses fields that it does not know, and says what is wrong in one line.

    Comes before `Block` among the bases (a common subclass of `Block` would be a block type itself).
    Pydantic's `extra="forbid"` would say the same, but also in the schema, and then Prefect's server
    refuses `{"$ref": {"block_document_id": ...}}` as a flow's parameter.
    """

    def __init__(self, **data: Any) -> None:
        # Prefect hands the type's slug along; it has been used by then.
        data.pop("block_type_slug", None)
        known = list(type(self).model_fields)  # type: ignore[attr-defined]
        check_known(data, known, "field {}", "there is no such field.")
        try:
            super().__init__(**data)
        except Exception as error:
            raise what_is_wrong(type(self), error, data) from None  # type: ignore[arg-type]

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The schema as Prefect's `Block` gives it, made once.

        Prefect asks for the whole of it for each field of a block that it saves, twice
        (`Block._field_has_secrets`), which is most of the time that a save takes.
        """
        core: Any = cls.__pydantic_core_schema__  # type: ignore[attr-defined]
        kept, made = _SCHEMAS.get(cls, (None, {}))
        if kept is not core:  # the first time, or the model was rebuilt
            _SCHEMAS[cls] = core, (made := {})
        asked = (args, tuple(sorted(kwargs.items())))
        if asked not in made:
            made[asked] = super().model_json_schema(*args, **kwargs)  # type: ignore[misc]
        return copy.deepcopy(made[asked])

    @classmethod
    def _load_from_block_document(cls, block_document: BlockDocument, validate: bool = True) -> Any:
        """Prefect's step from a document to a block, in its own `load`, with words about what is wrong.

        Args:
            validate: If not, what is wrong is left out with a warning, for the caller to put right.

        Raises:
            OptionsError: What is saved is not right.
        """
        kind: Any = cls
        try:
            block = block_of(kind, block_document)
        except Exception as error:
            d = what_is_wrong(kind, error, block_document.data).diagnosis
        else:
            keep_named(block_document, block)
            return block
        name, age = f"block {block_document.name!r}", age_of(kind, block_document)
        how = f"{kind.__name__}.load({block_document.name!r}, validate=False) loads what can be read."
        wrong = OptionsError(f"{name}: {d.what}", d.why, " ".join(filter(None, (d.next_step, age, how))))
        if validate:
            raise wrong
        held: dict[str, Any] = {}
        for field_name, field in kind.model_fields.items():
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            try:
                given = field_name in block_document.data
                held[field_name] = _piece(field, block_document.data[field_name]) if given else default
            except Exception:  # as in `what_is_wrong`
                held[field_name] = None
        warnings.warn(
            f"{name} was loaded without what is wrong with it, and cannot be used as it is. "
            f"{OptionsError(d.what, d.why, age)}",
            stacklevel=2,
        )
        block = kind.model_construct(**held)
        loaded_from(block, block_document)
        return block
