"""What a refusal of the broker means.

The broker answers 401 for nearly everything, so the problem ``type`` decides and the status only counts
when there is none (kbs_protocol.md 1.8 and 3.4).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.kbs.messages import Problem, parse
from agent.kbs.skew import parse_date

if TYPE_CHECKING:
    from collections.abc import Mapping

_DETAIL_MAX: Final = 200
_DIGITS: Final = 12
_VERSION_MISMATCH: Final = "KBS Client Protocol Version Mismatch"
_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,64}")
_TOKEN_LIKE: Final = re.compile(r"[A-Za-z0-9_-]{32,}")

_AT_RESOURCE: Final[Mapping[str, ErrorCode]] = {
    "TokenNotFound": ErrorCode.TOKEN_REJECTED,
    "TokenVerifierError": ErrorCode.TOKEN_REJECTED,
    "PolicyDeny": ErrorCode.RESOURCE_DENIED,
    "PluginInternalError": ErrorCode.RESOURCE_NOT_FOUND,
    "PluginNotFound": ErrorCode.PLUGIN_NOT_FOUND,
    "InvalidRequestPath": ErrorCode.INVALID_URI,
}
"""Problems that speak about the resource asked for; at another endpoint they make no sense."""

_AT_HANDSHAKE: Final[Mapping[str, ErrorCode]] = {
    "AttestationError": ErrorCode.ATTESTATION_REJECTED,
}

_AT_ATTEST: Final[Mapping[str, ErrorCode]] = {
    "PolicyDeny": ErrorCode.MEASUREMENT_REJECTED,
}
"""Problems that speak about evidence; Trustee itself has one type for all of them."""

_SUBJECT: Final = re.compile(
    r"\b(?:measurements?|reference[ -]values?|launch[ _-]?digest|host[ _-]?data|init[ _-]?data"
    r"|mr_?config_?id|mr_?td|rtmr_?[0-3]?|pcr_?[0-9]{0,2}|policy|policies)\b",
    re.IGNORECASE,
)
_VERDICT: Final = re.compile(
    r"\b(?:mismatch(?:e[ds])?|unmatched|(?:not|no) match(?:ed)?|differ(?:s|ent)?|den(?:y|ie[ds])"
    r"|reject(?:s|ed)?|not allowed|unexpected|contraindicated)\b",
    re.IGNORECASE,
)
"""Words of a broker that says which part of the evidence it did not like; Trustee says nothing."""

_ANYWHERE: Final[Mapping[str, ErrorCode]] = {
    "PolicyEngineError": ErrorCode.KBS_POLICY_BROKEN,
    "ParsePolicyError": ErrorCode.KBS_POLICY_BROKEN,
    "JweError": ErrorCode.TEE_KEY_REFUSED,
    "AdminAuthInitialization": ErrorCode.KBS_ADMIN_REQUIRED,
    "AdminAuthAccess": ErrorCode.KBS_ADMIN_REQUIRED,
    "RvpsError": ErrorCode.KBS_BAD_RESPONSE,
    "SerdeError": ErrorCode.KBS_BAD_RESPONSE,
    "PrometheusError": ErrorCode.KBS_BAD_RESPONSE,
    "PluginManagerInitialization": ErrorCode.KBS_BAD_RESPONSE,
    "StorageBackendInitialization": ErrorCode.KBS_BAD_RESPONSE,
    "HTTPFailed": ErrorCode.KBS_BAD_RESPONSE,
    "HTTPSFailed": ErrorCode.KBS_BAD_RESPONSE,
}

_PASSING: Final = frozenset({408, 421, 425, 429})
"""Timed out, sent to the wrong place, too early, too many: about the moment or the connection, as 5xx is."""

_BY_STATUS: Final[Mapping[int, str]] = {
    400: "it could not read the request",
    404: "there is no KBS at this address; is the URL right, or is it another service?",
    405: "there is no KBS at this address; is the URL right, or is it another service?",
    413: "the request is too large for it; raise payload_request_size at the broker, or a proxy's limit",
    431: "the request's head is too large for it; a token with much device evidence can be "
    "(verbose_token = false at the broker)",
}


def classify(endpoint: str, status: int, body: bytes, *, retry_after: float | None = None) -> AgentError:
    """The error that a broker's answer other than 200 stands for.

    Args:
        endpoint: ``auth``, ``attest`` or ``resource``.
        status: HTTP status.
        body: as received; read as JSON whatever its content type.
        retry_after: see :func:`retry_after`; goes into errors that may pass.

    Returns:
        An error to raise. Its ``problem`` is the last path part of ``type``, when there is one. Its detail
        holds at most 200 printable characters from the broker, for the operator only.
    """
    error = _meaning(endpoint, status, body)
    if error.code.meaning.retry:
        error.retry_after = retry_after
    return error


def retry_after(value: str, date: str, wall: float) -> float | None:
    """Seconds that ``Retry-After`` asks for (RFC 9110 10.2.3), from 0 to ``limits.RETRY_AFTER_MAX``.

    Args:
        value: of the header: whole seconds, or an IMF-fixdate.
        date: ``Date`` of the same answer: a date is meant by the broker's clock, not by ours.
        wall: our clock, in seconds since the Unix epoch, for answers without ``Date``.

    Returns:
        None for anything else, an empty value included.
    """
    value = value.strip()
    # T-KBS-85: digits are counted before they are read, and the result is bounded: an answer must not be
    # able to silence a guest for hours.
    if value.isascii() and value.isdigit():
        return min(float(value[:_DIGITS]), limits.RETRY_AFTER_MAX)
    until = parse_date(value)
    if until is None:
        return None
    now = parse_date(date)
    return min(max(0.0, until - (wall if now is None else now)), limits.RETRY_AFTER_MAX)


def _meaning(endpoint: str, status: int, body: bytes) -> AgentError:
    where = f"/{endpoint} answered {status}"
    # A redirect is refused whatever its body says.
    if 300 <= status < 400:
        return AgentError(ErrorCode.KBS_REDIRECT_REFUSED, where)
    try:
        problem = parse(body, Problem, limits.KBS_MAX_PROBLEM)  # T-KBS-36: bounded before parsing.
    except ValueError:
        return _by_status(status, where, None)
    name = problem.type.rpartition("/")[2]
    # T-KBS-37: the name goes into logs and metric labels, so only a word passes.
    if not _NAME.fullmatch(name):
        return _by_status(status, where, None)
    where = f"{where} {name}"
    said = problem.detail or ""
    if detail := _printable(said):
        where = f"{where}: {detail}"
    return _by_name(endpoint, name, said, where) or _by_status(status, where, name)


def _by_name(endpoint: str, name: str, detail: str, where: str) -> AgentError | None:
    if name == "AttestationError" and _VERSION_MISMATCH in detail:
        return AgentError(ErrorCode.PROTOCOL_MISMATCH, where, problem=name)
    if endpoint == "attest" and (code := _about_measurement(name, detail)):
        return AgentError(code, where, problem=name)
    code = (_AT_RESOURCE if endpoint == "resource" else _AT_HANDSHAKE).get(name) or _ANYWHERE.get(name)
    if code is not None:
        return AgentError(code, where, problem=name)
    if name == "PluginNotFound":
        where = f"this broker has no attestation service, attest at another one ({where})"
        return AgentError(ErrorCode.KBS_BAD_RESPONSE, where, problem=name)
    if name in _AT_RESOURCE or name in _AT_HANDSHAKE:
        return AgentError(ErrorCode.KBS_BAD_RESPONSE, f"out of place: {where}", problem=name)
    return None


def _about_measurement(name: str, detail: str) -> ErrorCode | None:
    told = name == "AttestationError" and _SUBJECT.search(detail) and _VERDICT.search(detail)
    return ErrorCode.MEASUREMENT_REJECTED if told else _AT_ATTEST.get(name)


def _by_status(status: int, where: str, name: str | None) -> AgentError:
    if status in _PASSING or 500 <= status < 600:
        return AgentError(ErrorCode.KBS_BUSY, where, problem=name)
    cause = _BY_STATUS.get(status, "this is not how a KBS answers")
    return AgentError(ErrorCode.KBS_BAD_RESPONSE, f"{where}: {cause}", problem=name)


def _printable(detail: str) -> str:
    # T-LOG-21: control and direction characters could forge log lines.
    text = "".join(char for char in detail if char.isprintable())
    # T-LOG-22: something in the broker's place could send the token or cookie back into our log.
    return _TOKEN_LIKE.sub("***", text)[:_DETAIL_MAX]
