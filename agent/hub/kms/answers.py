"""What services say, taken apart strictly: good answers as structs, refusals by the service's own codes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json, standard_decode
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.hub.kms.http import KmsAnswer

T = TypeVar("T")

_TOKEN: Final = re.compile(r"[!-~]{1,16384}", re.ASCII)

CLOCK_HINT: Final = " (is the guest's clock right?)"


def parse_answer(answer: KmsAnswer, shape: type[T], service: str) -> T:
    """The JSON body of a good answer.

    Raises:
        AgentError: KMS_BAD_RESPONSE; the detail names the member, never its value.
    """
    return read_json(answer.body, shape, ErrorCode.KMS_BAD_RESPONSE, f"answer of {service}")


def parse_refusal(answer: KmsAnswer, shape: type[T]) -> T | None:
    """The JSON body of any other answer; None when it is not the service's, such as a proxy's page."""
    try:
        return read_json(answer.body, shape, ErrorCode.KMS_BAD_RESPONSE, "")
    except AgentError:
        return None


def decoded(text: str, service: str, what: str) -> Secret:
    """A member in standard base64.

    Raises:
        AgentError: KMS_BAD_RESPONSE.
    """
    try:
        return Secret(standard_decode(text))
    except ValueError:
        raise bad_answer(service, f"{what} is not base64") from None


def bearer(token: str, kind: str, service: str) -> Secret:
    """A token that can be sent (RFC 6750 section 2.1).

    Raises:
        AgentError: KMS_BAD_RESPONSE.
    """
    if kind.lower() != "bearer" or not _TOKEN.fullmatch(token):
        raise bad_answer(service, "it is not a bearer token")
    return Secret(token.encode())


def bad_answer(service: str, reason: str) -> AgentError:
    """KMS_BAD_RESPONSE.

    Args:
        service: names it.
        reason: what is wrong with the answer; nothing of its text.
    """
    return AgentError(ErrorCode.KMS_BAD_RESPONSE, f"{service}: {reason}")


def refused(
    answer: KmsAnswer,
    service: str,
    said: tuple[str, ...],
    codes: Mapping[str, ErrorCode],
    *,
    clock: frozenset[str] = frozenset(),
) -> AgentError:
    """What the service means, by its own codes: a status alone may be a proxy's or another service's.

    Args:
        answer: any but a good one.
        service: names it.
        said: its error codes, the most precise one first.
        codes: the meaning of those that are known. A code ``A.B`` is also known as ``A``.
        clock: those that a wrong clock can cause.
    """
    for one in said:
        for known in (one, one.partition(".")[0]):
            if known in codes:
                detail = f"{service} answered {answer.status}: {known}{CLOCK_HINT if known in clock else ''}"
                return AgentError(codes[known], detail, retry_after=answer.retry_after)
    busy = answer.status in {408, 429} or answer.status >= 500
    # T-KMS-10: an unknown code is not repeated: what answers there may be anybody, and logs leave the guest.
    detail = f"{service} answered {answer.status} and no error code that is known"
    code = ErrorCode.KMS_BUSY if busy else ErrorCode.KMS_BAD_RESPONSE
    return AgentError(code, detail, retry_after=answer.retry_after)
