"""Who asks, in front of everything else: only who knows a secret of this sandbox gets an answer.

User data is a program that runs as the user who started the sandbox, and a port of the loopback is open to
every user of the machine. So each call proves that it knows a secret:

    AWS's API         its signature is checked, with the secret key of whoever signed it
                      (S3 gives without one what its owner opened to everybody)
    /_sandbox/        the sandbox's own secret, in the header Authorization
    /_sandbox/imds/   a key in the path, which only that machine's processes are told
    /_sandbox/proof/  nothing: it proves to whoever asks that this sandbox knows its secret

The sandbox's secret is new at each start. It is in `server.json` in the state folder, which nobody else may
read, and it is the secret key of the administrator's access key, "sandbox".
"""

from __future__ import annotations

import hmac
import io
import json
import secrets
import threading
from collections.abc import Iterable

from prefect_coiled.sandbox.authorization import Denial
from prefect_coiled.sandbox.calls import HANG_UP, Call, Environ, StartResponse, WsgiApp, call_of, reply
from prefect_coiled.sandbox.iam.evaluator import ADMINISTRATOR, unknown
from prefect_coiled.sandbox.iam.principals import secret_key_of
from prefect_coiled.sandbox.info import proof_of
from prefect_coiled.sandbox.public_objects import is_public
from prefect_coiled.sandbox.signatures import signature_of

__all__ = ["Authentication", "Secret"]

_ADMIN = "/_sandbox/"
_PROOF = f"{_ADMIN}proof/"
# Bytes that S3 takes in one PutObject: https://docs.aws.amazon.com/AmazonS3/latest/userguide/upload-objects.html
_LARGEST = 5 * 1024**3
# And more than other calls have: they are read before it is known whether their signature is right.
_LARGEST_CALL = 16 * 1024**2
# AWS answers this one without a signature too, and it tells nothing but one's own address.
_FOR_ALL = f"{_ADMIN}checkip"


class Secret:
    """The secret of one sandbox, and what is derived from it.

    Attributes:
        text: The secret: 256 bits, written in base64.
    """

    def __init__(self) -> None:
        self.text = secrets.token_urlsafe(32)

    def imds_path(self, instance_id: str) -> str:
        """Where the metadata of an instance is; the last part is that machine's own key.

        Args:
            instance_id: The id on EC2.
        """
        key = hmac.digest(self.text.encode(), f"imds/{instance_id}".encode(), "sha256").hex()
        return f"{_ADMIN}imds/{instance_id}/{key}"

    def proof(self, nonce: str) -> str:
        """What only this sandbox can answer to a number that is used once.

        Args:
            nonce: The number; of whoever wants to know who answers.
        """
        return proof_of(self.text, nonce)

    def opens(self, environ: Environ) -> bool:
        """Whether a request below /_sandbox/ knows what it has to know for its path."""
        path = str(environ["PATH_INFO"])
        if path.startswith(f"{_ADMIN}imds/"):
            place = "/".join(path.split("/")[:5])
            instance_id = place.removeprefix(f"{_ADMIN}imds/").partition("/")[0]
            return _same(place, self.imds_path(instance_id))
        return path == _FOR_ALL or _same(environ.get("HTTP_AUTHORIZATION", ""), f"Bearer {self.text}")


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode())


class Authentication:
    """Middleware: a request that does not prove who sent it goes no further.

    Args:
        app: The next application of the chain.
        secret: The sandbox's.
        lock: The one lock of the sandbox: moto's models know no threads.
    """

    def __init__(self, app: WsgiApp, secret: Secret, lock: threading.RLock) -> None:
        self._app = app
        self._secret = secret
        self._lock = lock
        self._keys: dict[str, str] = {}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or hand on to the next application."""
        environ[HANG_UP] = True
        if environ["PATH_INFO"].startswith(_PROOF):
            nonce = str(environ["PATH_INFO"]).removeprefix(_PROOF)
            return reply(start_response, 200, json.dumps(self._secret.proof(nonce)), "application/json")
        if environ["PATH_INFO"].startswith(_ADMIN):
            if not self._secret.opens(environ):
                return reply(
                    start_response, 403, '{"error": "This is not your sandbox."}', "application/json"
                )
            return self._known(environ, start_response)
        refusal = self._refusal(environ)
        if refusal is not None:
            return _unread(environ).error(start_response, refusal.code, refusal.status, refusal.message)
        if call_of(environ).malformed:
            return call_of(environ).error(
                start_response, "SerializationException", 400, "It is no JSON object."
            )
        return self._known(environ, start_response)

    def _known(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ[HANG_UP] = False
        return self._app(environ, start_response)

    def _refusal(self, environ: Environ) -> Denial | None:
        if int(environ.get("CONTENT_LENGTH") or 0) > _LARGEST:
            # Said before anything of it is read, which the check of a signature would do.
            return Denial("EntityTooLarge", 400, "Your proposed upload exceeds the maximum allowed size")
        signature = signature_of(environ)
        if signature is not None and signature.reads_body and _is_long(environ):
            return Denial("RequestEntityTooLarge", 413, "The request is too large.")
        if signature is None:
            with self._lock:
                if is_public(environ):
                    return None
            return Denial("MissingAuthenticationToken", 403, "Request is missing Authentication Token")
        secret = self._secret_key(signature.access_key)
        if secret is None:
            return unknown(_unread(environ))
        return None if signature.is_by(secret, environ) else _mismatch(_unread(environ))

    def _secret_key(self, access_key: str) -> str | None:
        if access_key == ADMINISTRATOR:
            return self._secret.text
        if access_key not in self._keys:
            with self._lock:
                found = secret_key_of(access_key)
            if found is None:
                return None
            self._keys[access_key] = found
        return self._keys[access_key]

    def clear(self) -> None:
        """Forget the keys of users and roles."""
        self._keys.clear()


def _unread(environ: Environ) -> Call:
    """The call of a request that is refused: of its body, however long, nothing is read."""
    return Call({**environ, "wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0"})


def _is_long(environ: Environ) -> bool:
    """Whether a body is longer than any call has but those of S3, or does not say how long it is."""
    return (
        environ.get("wsgi.input_terminated", False) or int(environ.get("CONTENT_LENGTH") or 0) > _LARGEST_CALL
    )


def _mismatch(call: Call) -> Denial:
    if call.service == "ec2":
        return unknown(call)
    message = "The request signature we calculated does not match the signature you provided."
    return Denial("InvalidSignatureException" if call.is_json else "SignatureDoesNotMatch", 403, message)
