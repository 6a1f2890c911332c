"""AWS Signature Version 4: a request's signature as a function of the request, the key and the time.

Format: AWS General Reference, "Signing AWS API requests" (AWS4-HMAC-SHA256), checked with AWS's published
signature test suite. Paths of unreserved characters only, which is all that the JSON protocols need.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from agent.secret import without

if TYPE_CHECKING:
    from collections.abc import Mapping

ALGORITHM: Final = "AWS4-HMAC-SHA256"

_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~-]*)+", re.ASCII)


class Key(msgspec.Struct, frozen=True):
    """An access key.

    Attributes:
        access_key_id: sent.
        secret_access_key: never sent.
        session_token: sent, when the key is a temporary one.
    """

    access_key_id: str
    secret_access_key: str
    session_token: str = ""

    def __repr__(self) -> str:
        return without(self, "secret_access_key", "session_token")


class Scope(msgspec.Struct, frozen=True):
    """What a signature is good for.

    Attributes:
        region: ``us-east-1``.
        service: as in signatures, ``kms``.
        wall: seconds since the Unix epoch; the service accepts a few minutes.
    """

    region: str
    service: str
    wall: float

    @property
    def date(self) -> str:
        """``20150830T123600Z``."""
        return datetime.fromtimestamp(self.wall, UTC).strftime("%Y%m%dT%H%M%SZ")

    @property
    def text(self) -> str:
        """``20150830/us-east-1/kms/aws4_request``."""
        return f"{self.date[:8]}/{self.region}/{self.service}/aws4_request"


def sign(
    method: str, url: str, headers: Mapping[str, str], body: bytes, *, key: Key, scope: Scope
) -> dict[str, str]:
    """``headers`` with those that authenticate them: all of them and ``Host`` are signed.

    Args:
        method: HTTP method.
        url: as sent; the query percent-encoded.
        headers: names in any case, without ``Host``; values of ASCII.
        body: as sent.
        key: of the caller.
        scope: where and when.

    Raises:
        ValueError: a path with other characters than unreserved ones.
    """
    added = {**headers, "X-Amz-Date": scope.date}
    if key.session_token:
        added["X-Amz-Security-Token"] = key.session_token
    parts = urlsplit(url)
    signed = {name.lower(): " ".join(value.split()) for name, value in added.items()}
    signed["host"] = parts.netloc
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        (
            method,
            _path(parts.path),
            "&".join(sorted(pair if "=" in pair else f"{pair}=" for pair in parts.query.split("&") if pair)),
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    to_sign = "\n".join((ALGORITHM, scope.date, scope.text, hashlib.sha256(canonical.encode()).hexdigest()))
    signature = _hmac(_signing_key(key, scope), to_sign).hex()
    credential = f"Credential={key.access_key_id}/{scope.text}"
    added["Authorization"] = f"{ALGORITHM} {credential}, SignedHeaders={names}, Signature={signature}"
    return added


def _signing_key(key: Key, scope: Scope) -> bytes:
    made = f"AWS4{key.secret_access_key}".encode()
    for part in scope.text.split("/"):
        made = _hmac(made, part)
    return made


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def _path(path: str) -> str:
    if not _PATH.fullmatch(path or "/"):
        raise ValueError("only paths of unreserved characters can be signed")
    return path or "/"
