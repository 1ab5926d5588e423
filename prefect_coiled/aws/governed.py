"""Settings that an organisation may keep to itself: where its policies forbid them, the rest goes on without.

Service control policies often forbid to touch what closes a bucket or says how long logs are kept. What is
left out is said. A permission that the credentials' own policies lack is another thing: an error, which says
how to permit the call.
"""

from __future__ import annotations

import logging
from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AccessDeniedError

logger = logging.getLogger(__name__)


def set_if_permitted(aws: Aws, action: str, what: str, without: str, **parameters: Any) -> bool:
    """Make a call unless a policy above the account's own forbids it.

    Returns:
        Whether it was made.

    Raises:
        AwsError: As `Aws.call` does, for any other reason.
    """
    try:
        aws.call(action, what, **parameters)
    except AccessDeniedError as error:
        if not error.denied_by:
            raise
        logger.warning("Without %s, which a %s forbids: %s.", action, error.denied_by, without)
        return False
    return True
