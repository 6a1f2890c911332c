"""The HTTP API of Vault and OpenBao: one request, and what its refusals mean (their manuals, "HTTP API")."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json
from agent.hub.kms.answers import parse_refusal
from agent.hub.kms.credentials import Hidden
from agent.hub.kms.http import refusal

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.http.tls import Trust
    from agent.hub.kms.http import KmsAnswer, KmsHttp
    from agent.secret import Secret

T = TypeVar("T")

SERVICE: Final = "vault"

_PATH_MAX: Final = 1024
_SEGMENT: Final = re.compile("[^\x00-\x1f\x7f\ud800-\udfff/]{1,512}")
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}(?:/[A-Za-z0-9_.-]{1,128}){0,15}/?", re.ASCII)
_LATER: Final = frozenset({412, 472, 473})
"""A standby that is behind or does not answer (health codes, which proxies hand on)."""

_SAID: Final = (
    (503, "is sealed", ErrorCode.KMS_BUSY, "it is sealed, and needs its operator"),
    (503, "not active", ErrorCode.KMS_BUSY, "a standby without an active node"),
    (500, "not active", ErrorCode.KMS_BUSY, "a standby without an active node"),
    (500, "client's certificate", ErrorCode.KMS_DENIED, "the client certificate is not for clients"),
    (403, "permission denied", ErrorCode.KMS_DENIED, "the policy does not allow it, or the token ended"),
    (400, "client certificate", ErrorCode.KMS_DENIED, "no role takes this client certificate"),
    (400, "encryption key not found", ErrorCode.KMS_NOT_FOUND, "no such key"),
    (400, "missing 'context'", ErrorCode.KMS_SETTINGS_INVALID, "a derived key, and no annotation 'context'"),
    (
        400,
        "message authentication failed",
        ErrorCode.KMS_DENIED,
        "the ciphertext was changed, or another key or context made it",
    ),
    (400, "disallowed by policy", ErrorCode.KMS_DENIED, "this version of the key may no longer decrypt"),
    (400, "invalid ciphertext", ErrorCode.KMS_DENIED, "no ciphertext of this key"),
    (404, "namespace not found", ErrorCode.KMS_NOT_FOUND, "no such namespace"),
    (404, "no handler for route", ErrorCode.KMS_NOT_FOUND, "nothing is mounted there"),
)
"""Status, words of the service, what they mean. Its own words repeat names, so they go no further."""


class TokenRefusedError(AgentError):
    """KMS_DENIED: the token ended, or its policy does not allow the request."""


class _Errors(msgspec.Struct, frozen=True):
    errors: list[str] = []


class _Metadata(msgspec.Struct, frozen=True):
    deletion_time: str = ""
    destroyed: bool = False


class _Gone(msgspec.Struct, frozen=True):
    metadata: _Metadata


class _Deleted(msgspec.Struct, frozen=True):
    data: _Gone


class Answer(Hidden, frozen=True):
    """The members of a good answer that this backend reads; each endpoint fills one.

    Attributes:
        data: what was asked for.
        auth: a new or renewed token.
    """

    data: msgspec.Raw = msgspec.Raw(b"null")
    auth: msgspec.Raw = msgspec.Raw(b"null")


class Service(msgspec.Struct, frozen=True):
    """One address and namespace.

    Attributes:
        http: the only way out.
        address: of ``KmsHttp.allowed``.
        namespace: ``X-Vault-Namespace``; empty: none.
    """

    http: KmsHttp
    address: str
    namespace: str = ""

    async def ask(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        *,
        token: Secret | None = None,
        body: object = None,
        trust: Trust | None = None,
    ) -> Answer:
        """One exchange with a good answer.

        Args:
            method: ``GET`` or ``POST``.
            path: below ``/v1/``, percent-encoded.
            deadline: ends it.
            token: none for logging in.
            body: becomes JSON; None: no body.
            trust: of ``KmsHttp.trust``.

        Raises:
            AgentError: KMS_*.
        """
        # The header is a guard of the service's own agents against forged requests; some demand it.
        headers = {"X-Vault-Request": "true"}
        if self.namespace:
            headers["X-Vault-Namespace"] = self.namespace
        if token is not None:
            headers["X-Vault-Token"] = token.reveal().decode("ascii")
        content = b""
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = msgspec.json.encode(body)
        url = f"{self.address}/v1/{path}"
        answer = await self.http.send(method, url, headers, content, deadline, trust=trust)
        if answer.status != 200:
            raise refused(answer)
        return read(answer.body, Answer, "the answer")


def read(data: bytes | msgspec.Raw, shape: type[T], what: str) -> T:
    """Part of an answer.

    Raises:
        AgentError: KMS_BAD_RESPONSE.
    """
    return read_json(bytes(data), shape, ErrorCode.KMS_BAD_RESPONSE, f"{SERVICE}: {what}")


def refused(answer: KmsAnswer) -> AgentError:
    """What an answer other than 200 means."""
    status, later = answer.status, answer.retry_after
    said = parse_refusal(answer, _Errors)
    text = " ".join(said.errors) if said is not None else ""
    for known, words, code, meaning in _SAID:
        if status == known and words in text:
            make = TokenRefusedError if status == 403 else AgentError
            return make(code, f"{SERVICE} answered {status}: {meaning}", retry_after=later)
    if status in _LATER:
        return AgentError(
            ErrorCode.KMS_BUSY, f"{SERVICE} answered {status}: a standby, not ready", retry_after=later
        )
    if status == 400 and said is not None:
        reason = f"{SERVICE} answered 400: it does not take this request"
        return AgentError(ErrorCode.KMS_SETTINGS_INVALID, reason)
    return refusal(answer, SERVICE, _gone(answer) if status == 404 else "")


def _gone(answer: KmsAnswer) -> str:
    found = parse_refusal(answer, _Deleted)
    if found is None:
        return ""
    if found.data.metadata.destroyed:
        return "this version is destroyed"
    return "this version is deleted" if found.data.metadata.deletion_time else ""


def check_namespace(text: str) -> str:
    """``text``, if it can be a namespace.

    Raises:
        AgentError: KMS_SETTINGS_INVALID.
    """
    # T-KMS-30: it becomes a header.
    if text and not _NAMESPACE.fullmatch(text):
        raise invalid("the namespace is not written as one is")
    return text


def encode_path(text: str, what: str) -> str:
    """Percent-encoded segments of ``text``, joined by slashes.

    Args:
        text: from outside: a mount, a secret's path or a key.
        what: names it in the error.

    Raises:
        AgentError: KMS_SETTINGS_INVALID.
    """
    segments = text.split("/")
    # T-KMS-31: a name must not climb out of its mount into another part of the service's API.
    good = len(text) <= _PATH_MAX and all(
        _SEGMENT.fullmatch(segment) and segment not in {".", ".."} for segment in segments
    )
    if not good:
        raise invalid(f"{what} has empty, dot or unprintable segments, or is too long")
    return "/".join(quote(segment, safe="") for segment in segments)


def invalid(reason: str) -> AgentError:
    """The caller's mistake."""
    return AgentError(ErrorCode.KMS_SETTINGS_INVALID, f"{SERVICE}: {reason}")
