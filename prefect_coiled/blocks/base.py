"""What both blocks share: no misspelt fields, and errors of one line."""

from __future__ import annotations

import os
from typing import Any

from pydantic import ValidationError

from prefect_coiled.errors import OptionsError
from prefect_coiled.options.base import near, one_line

# The square AWS mark that prefect-aws shows on its own blocks. Prefect keeps an address, not a picture: where
# browsers cannot reach that one, another is named by this variable when the types are registered.
AWS_LOGO = os.environ.get("PREFECT_COILED_LOGO_URL") or (
    "https://cdn.sanity.io/images/3ugk85nk/production/d74b16fe84ce626345adf235a47008fea2869a60-225x225.png"
)
DOCUMENTATION = "https://docs.prefect.io/integrations/prefect-dask"


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
        for name in data:
            if name not in known:
                hint = near(name, known) or f"Known: {', '.join(known)}."
                raise OptionsError(f"field {name!r}", "there is no such field.", hint)
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise one_line(type(self), error) from None  # type: ignore[arg-type]
