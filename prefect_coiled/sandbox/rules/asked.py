"""What a call asks for, as the API's own parameters: from the wire by botocore's model of the service.

moto parses the same way when it answers; here it is done before, so that a rule reads
`asked.params["Filters"]` and not "Filter.1.Value.1".
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import ParseError

from botocore.exceptions import UnknownServiceError
from botocore.model import OperationNotFoundError
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.request import Request
from moto.core.routing import get_service_router
from moto.core.utils import get_service_model
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException

from prefect_coiled.sandbox.calls import Call

__all__ = ["Asked", "UnreadableError", "asked_of"]

_KEY = "prefect_coiled.sandbox.asked"
# Services whose name in a signature is not that of their model.
_MODELS = {
    "tagging": "resourcegroupstaggingapi",
    "servicequotas": "service-quotas",
    "monitoring": "cloudwatch",
}
_LARGEST = 4 << 20  # bytes of a body of S3's that is read: documents are small, and objects are never read
_MALFORMED = (ValueError, TypeError, AttributeError, KeyError, ParseError)


class UnreadableError(Exception):
    """The request does not fit the model: a number that is none, XML that is none."""


class Asked:
    """A call in the API's own words.

    Attributes:
        service: As in the signature's scope.
        action: The API action, also for S3.
        params: The parameters.
        region: The region.
        access_key: Who signed.
        operation: botocore's model of the action.
    """

    def __init__(self, call: Call, operation: Any, params: Mapping[str, Any]) -> None:
        self.service, self.region, self.access_key = call.service, call.region, call.access_key
        self.action = str(operation.name)
        self.operation = operation
        self.params = params
        self.size = int(call.environ.get("CONTENT_LENGTH") or 0)

    def get(self, *names: str) -> Any:
        """The value at a path of names; None where there is none."""
        value: Any = self.params
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def all(self, *names: str) -> list[Any]:
        """The list at a path of names; empty where there is none."""
        return list(self.get(*names) or [])


def asked_of(call: Call) -> Asked | None:
    """What a call asks for; read once. None for a service or an action that botocore does not know.

    Raises:
        UnreadableError: The request does not fit the model.
    """
    if _KEY not in call.environ:
        call.environ[_KEY] = _read(call)
    found: Asked | None = call.environ[_KEY]
    return found


def _read(call: Call) -> Asked | None:
    if not call.service:
        return None
    try:
        model = get_service_model(_MODELS.get(call.service, call.service))
        if call.service == "s3" or call.protocol == "rest":
            return _rest(call, model)
        operation = model.operation_model(call.action)
    except (UnknownServiceError, OperationNotFoundError):
        return None
    protocol = "json" if call.protocol == "json" else str(model.protocol)
    if protocol not in PROTOCOL_PARSERS:
        return None
    request = {
        "values": call.params,
        "body": json.dumps(call.params) if call.protocol == "json" else b"",
        "headers": {},
        "url_params": {},
    }
    return Asked(call, operation, _parsed(protocol, operation, request))


def _rest(call: Call, model: Any) -> Asked | None:
    request = Request(call.environ)
    try:
        operation, path = get_service_router(model.service_name).match(request)
    except HTTPException:
        return None
    if operation is None:
        return None
    given = {
        "values": MultiDict(request.args),
        "body": b"" if operation.has_streaming_input else _body(call),
        "headers": request.headers,
        "url_params": path,
    }
    return Asked(call, operation, _parsed(str(model.protocol), operation, given))


def _body(call: Call) -> bytes:
    """A document in the body, left there for whoever reads it next."""
    length = int(call.environ.get("CONTENT_LENGTH") or 0)
    if not 0 < length <= _LARGEST or "aws-chunked" in call.environ.get("HTTP_CONTENT_ENCODING", ""):
        return b""
    body: bytes = call.environ["wsgi.input"].read(length)
    call.environ["wsgi.input"] = io.BytesIO(body)
    return body


def _parsed(protocol: str, operation: Any, request: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        found = PROTOCOL_PARSERS[protocol](operation).parse(request)
    except _MALFORMED as error:
        raise UnreadableError(str(error)) from error
    return found if isinstance(found, Mapping) else {}
