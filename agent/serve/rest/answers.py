"""Answers as data: success bodies byte for byte (cdh.md 1.3 to 1.5), and errors in two forms."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from agent import variant
from agent.errors import AgentError, ErrorCode
from agent.http.server.exchange import Answer
from agent.roles import Fetched, MeasurementResult
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
# Seconds: a full house empties at once, a broker or a device needs longer.
_RETRY_AFTER: Final[Mapping[int, str]] = MappingProxyType({429: "1", 503: "5"})

# What follows on the connection of such a request may not be what it seems; or there are too many of them.
_CLOSING: Final = frozenset(
    {
        ErrorCode.INVALID_REQUEST,
        ErrorCode.PEER_REFUSED,
        ErrorCode.PAYLOAD_TOO_LARGE,
        ErrorCode.TOO_MANY_REQUESTS,
    }
)

# Bodies that clients of upstream compare with (cdh.md 1.2); without a line end.
_FIXED: Final[Mapping[ErrorCode, str]] = MappingProxyType(
    {
        ErrorCode.INVALID_REQUEST: "BAD REQUEST",
        ErrorCode.PEER_REFUSED: "Forbidden",
        ErrorCode.UNKNOWN_ROUTE: "URL NOT FOUND",
        ErrorCode.METHOD_NOT_ALLOWED: "Method Not Allowed",
    }
)

_EXTENDED: Final[Mapping[MeasurementResult, bytes]] = MappingProxyType(
    {
        MeasurementResult.OK: b'{"success":"true"}',
        MeasurementResult.NOT_SUPPORTED: b'{"success":"false","message": '
        b'"The platform does not support runtime measurement"}',
        MeasurementResult.NOT_ENABLED: b'{"success":"false","message": '
        b'"Attestation Agent does not enable eventlog recording"}',
    }
)
_EXTENDED_OTHER: Final = b'{"success":"false","message": "Unknown runtime measurement result"}'


class RestError(AgentError):
    """A failure found by the REST room itself, before any role was asked.

    Attributes:
        text: body for callers that do not ask for JSON; None for the code's own.
        allow: methods of the route, for 405.
        compat: upstream answers 500 to this (``gateway.compat_status``).
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str = "",
        *,
        text: str | None = None,
        allow: tuple[str, ...] = (),
        compat: bool = False,
    ) -> None:
        super().__init__(code, detail)
        self.text = text
        self.allow = allow
        self.compat = compat


class _Info(msgspec.Struct, frozen=True, omit_defaults=True):
    version: str
    tee: str | None = None
    additional_tees: tuple[str, ...] = ()
    feature: str = ""
    image: str = ""


class _Health(msgspec.Struct, frozen=True):
    status: str
    reasons: tuple[str, ...]


class _Value(msgspec.Struct, frozen=True):
    value: bytes  # as base64 of RFC 4648 section 4


class _ItemProblem(msgspec.Struct, frozen=True):
    code: str
    message: str
    hint: str


class _Problem(msgspec.Struct, frozen=True):
    code: str
    message: str
    hint: str
    request_id: str


def info(version: str, tee: str | None, additional_tees: tuple[str, ...], feature: str) -> Answer:
    """``/info``: keys in upstream's order, ``tee`` and ``additional_tees`` only when there are any.

    A development image adds ``image``.
    """
    text = f"Guest Components Version: coco-agent {version}"
    image = "development" if variant.DEVELOPMENT else ""
    return Answer(200, msgspec.json.encode(_Info(text, tee, additional_tees, feature, image)), JSON)


def health(*, ok: bool, reasons: tuple[str, ...]) -> Answer:
    """``/healthz`` and ``/readyz``: reasons are error codes."""
    body = msgspec.json.encode(_Health("ok" if ok else "failing", reasons))
    return Answer(200 if ok else 503, body, JSON)


def extended(result: MeasurementResult) -> Answer:
    """``/aa/aael``: always 200; the body tells the result."""
    return Answer(200, _EXTENDED.get(result, _EXTENDED_OTHER), JSON)


def resource(fetched: Fetched) -> Answer:
    """``/cdh/resource``: the plaintext, ``X-Cache``, and ``Age`` in whole seconds (RFC 9111 section 5.1)."""
    secret = fetched.secret
    body = secret.reveal()
    secret.wipe()
    return Answer(200, body, headers=(("X-Cache", fetched.freshness.value), ("Age", str(int(fetched.age)))))


def unsealed(results: Sequence[Secret | AgentError]) -> Answer:
    """``/cdh/unseal``: one object per item, in their order; what was handed out is wiped here."""
    items: list[_Value | _ItemProblem] = []
    for result in results:
        if isinstance(result, Secret):
            items.append(_Value(result.reveal()))
            result.wipe()
        else:
            items.append(_ItemProblem(result.code.name, result.message, result.hint))
    return Answer(200, msgspec.json.encode(items), JSON)


def failure(error: AgentError, request_id: str, *, json: bool, compat_status: bool = False) -> Answer:
    """An error as its caller may see it: never the detail, never anything of the request.

    Args:
        error: what happened.
        request_id: 16 hex digits, as in the log.
        json: the caller asked for JSON.
        compat_status: 500 for every failure of a role, as upstream.
    """
    meaning = error.code.meaning
    own = error if isinstance(error, RestError) else None
    status = 500 if compat_status and (own is None or own.compat) else meaning.rest
    headers: list[tuple[str, str]] = []
    if own is not None and own.allow:
        headers.append(("Allow", ", ".join(own.allow)))
    if status == 429 or (status == 503 and meaning.retry):
        headers.append(("Retry-After", _RETRY_AFTER[status]))
    close = own is not None and error.code in _CLOSING
    if json:
        problem = _Problem(error.code.name, meaning.message, meaning.hint, request_id)
        return Answer(status, msgspec.json.encode(problem), JSON, tuple(headers), close)
    text = own.text if own is not None else None
    if text is None:
        text = _FIXED.get(error.code)
    if text is None:
        text = f"{meaning.message} ({error.code.name}, request {request_id})\n"
    return Answer(status, text.encode(), TEXT, tuple(headers), close)
