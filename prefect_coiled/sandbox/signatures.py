"""AWS's signatures as a server checks them: made anew from the request and the secret key.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html. The signature is
in the header Authorization, or in the query of a presigned URL. Such a URL of S3 may be of version 2, as
boto3 makes them in us-east-1: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html. Pure.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import posixpath
import re
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import ClassVar
from urllib.parse import parse_qsl, quote

from prefect_coiled.sandbox.calls import Environ

__all__ = ["QuerySignature2", "Signature", "signature_of"]

_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,\s]+)/((\d{8})/([^/,\s]+)/([^/,\s]+)/aws4_request), ?"
    r"SignedHeaders=([^,\s]+), ?Signature=([0-9a-f]{64})"
)
_SCOPE = re.compile(r"([^/]+)/((\d{8})/([^/]+)/([^/]+)/aws4_request)")
# Seconds: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html#RESTAuthenticationTimeStamp
_SKEW_S = 15 * 60
_UNSIGNED = "UNSIGNED-PAYLOAD"
# What version 2 does not sign of a query.
_UNSIGNED_2 = {"AWSAccessKeyId", "Expires", "Signature", "x-amz-security-token"}


@dataclass(frozen=True)
class Signature:
    """What a request says of who signed it, and how.

    Attributes:
        access_key: The access key id.
        scope: Date, region, service and "aws4_request", as in the request.
        headers: The names of the signed headers.
        moment: When it was signed, such as "20260101T000000Z".
        value: The signature, in hexadecimal digits.
        presigned: Whether it is in the query.
        seconds: How long it holds, if it is.
    """

    access_key: str
    scope: str
    headers: tuple[str, ...]
    moment: str
    value: str
    presigned: bool
    seconds: float = 0.0

    def is_by(self, secret: str, environ: Environ) -> bool:
        """Whether whoever signed the request knows the secret key.

        Args:
            secret: The secret key.
            environ: The request. The body of a call that does not say its own hash is read, and put back.
        """
        if "host" not in self.headers or not self._is_of_now():
            return False
        canonical = hashlib.sha256(self._canonical(environ).encode("latin-1")).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self.moment}\n{self.scope}\n{canonical}"
        key = b"AWS4" + secret.encode()
        for part in (*self.scope.split("/"), text):
            key = hmac.digest(key, part.encode(), "sha256")
        # The body last: of what somebody else sends to S3, none is read.
        return hmac.compare_digest(key.hex(), self.value) and self._is_as_hashed(environ)

    @property
    def reads_body(self) -> bool:
        """Whether the body has to be read to check it; calls to S3 say its hash in a header."""
        return self.scope.split("/")[2] != "s3"

    def _canonical(self, environ: Environ) -> str:
        path, _, query = str(environ["REQUEST_URI"]).partition("?")
        if self.scope.split("/")[2] != "s3":
            slash = "/" if path.endswith("/") else ""
            path = posixpath.normpath(path or "/").replace("//", "/").rstrip("/") + slash
            path = quote(path or "/", safe="/~")
        pairs = (pair.partition("=")[::2] for pair in query.split("&") if pair)
        kept = sorted(pair for pair in pairs if pair[0] != "X-Amz-Signature")
        return "\n".join(
            (
                environ["REQUEST_METHOD"],
                path or "/",
                "&".join(f"{name}={value}" for name, value in kept),
                *(f"{name}:{_header(environ, name)}" for name in self.headers),
                "",
                ";".join(self.headers),
                self._payload(environ),
            )
        )

    def _is_of_now(self) -> bool:
        """Whether it was signed a moment ago, or holds for as long as it said."""
        try:
            signed = datetime.strptime(self.moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        except ValueError:
            return False
        age = (datetime.now(timezone.utc) - signed).total_seconds()
        return -_SKEW_S <= age <= (self.seconds if self.presigned else _SKEW_S)

    def _payload(self, environ: Environ) -> str:
        told = str(environ.get("HTTP_X_AMZ_CONTENT_SHA256", ""))
        if not self.reads_body:
            return told or _UNSIGNED
        return hashlib.sha256(_body(environ)).hexdigest()

    def _is_as_hashed(self, environ: Environ) -> bool:
        """Whether the body of a call to S3 has the hash that was signed; S3 takes it without one, too."""
        told = str(environ.get("HTTP_X_AMZ_CONTENT_SHA256", ""))
        if not re.fullmatch(r"[0-9a-f]{64}", told):
            return True
        return hmac.compare_digest(hashlib.sha256(_body(environ)).hexdigest(), told)


@dataclass(frozen=True)
class QuerySignature2:
    """A presigned URL of S3, of version 2.

    Attributes:
        access_key: The access key id.
        expires: When it ends, in seconds since 1970.
        value: The signature, in base64.
    """

    access_key: str
    expires: str
    value: str
    reads_body: ClassVar[bool] = False

    def is_by(self, secret: str, environ: Environ) -> bool:
        """Whether whoever signed the request knows the secret key.

        Args:
            secret: The secret key.
            environ: The request.
        """
        if not re.fullmatch(r"\d{1,12}", self.expires, re.ASCII) or int(self.expires) < time.time():
            return False
        path = str(environ["REQUEST_URI"]).partition("?")[0]
        query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        signed = sorted(pair for pair in query if pair[0] not in _UNSIGNED_2)
        named = "&".join(f"{name}={value}" if value else name for name, value in signed)
        names = [key.removeprefix("HTTP_") for key in environ if key.startswith("HTTP_X_AMZ_")]
        headers = [f"{name.lower().replace('_', '-')}:{_header(environ, name)}" for name in names]
        headers += [f"{name}:{value}" for name, value in query if name == "x-amz-security-token"]
        text = "\n".join(
            (
                environ["REQUEST_METHOD"],
                environ.get("HTTP_CONTENT_MD5", ""),
                environ.get("CONTENT_TYPE", ""),
                self.expires,
                *sorted(headers),
                f"{path}?{named}" if named else path,
            )
        )
        right = base64.b64encode(hmac.digest(secret.encode(), text.encode(), "sha1"))
        return hmac.compare_digest(right, self.value.encode())


def _body(environ: Environ) -> bytes:
    """The body of a request, which is put back."""
    if environ.get("wsgi.input_terminated"):
        body: bytes = environ["wsgi.input"].read()
        environ["CONTENT_LENGTH"] = str(len(body))  # whoever reads it next reads all of it, too
    else:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _header(environ: Environ, name: str) -> str:
    key = name.upper().replace("-", "_")
    if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        key = f"HTTP_{key}"
    return " ".join(str(environ.get(key, "")).split())


def signature_of(environ: Environ) -> Signature | QuerySignature2 | None:
    """The signature of a request; None for a request that has none, or one of another kind.

    Args:
        environ: The request.
    """
    given = environ.get("HTTP_AUTHORIZATION", "")
    if given:
        match = _HEADER.fullmatch(given)
        if match is None:
            return None
        key, scope, _, _, _, headers, value = match.groups()
        moment = environ.get("HTTP_X_AMZ_DATE", "")
        return Signature(key, scope, tuple(headers.split(";")), moment, value, presigned=False)
    query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
    if {"AWSAccessKeyId", "Expires", "Signature"} <= set(query):
        return QuerySignature2(query["AWSAccessKeyId"], query["Expires"], query["Signature"])
    match = _SCOPE.fullmatch(query.get("X-Amz-Credential", ""))
    if match is None or query.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256":
        return None
    headers = query.get("X-Amz-SignedHeaders", "")
    moment, value = query.get("X-Amz-Date", ""), query.get("X-Amz-Signature", "")
    seconds = query.get("X-Amz-Expires", "")
    holds = float(seconds) if re.fullmatch(r"\d{1,6}", seconds, re.ASCII) else -1.0
    return Signature(
        match[1], match[2], tuple(headers.split(";")), moment, value, presigned=True, seconds=holds
    )
