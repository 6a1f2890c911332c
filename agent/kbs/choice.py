"""Token or session cookie, and when to try again: decisions of the broker's client. Pure functions.

A token with the evidence of eight GPUs has about 170 KiB, which many a server refuses as a request head. The
session the token was made in is known to the broker by a short cookie (user_pains.md row 7, kbs_protocol.md
3.2).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.kbs.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.kbs.credential import SessionRef

_HEAD_STATUSES: Final = frozenset({400, 431, 494})  # 494: nginx


class HeadRefusedError(AgentError):
    """A request was refused because its token makes the head too large; the same error otherwise.

    Attributes:
        answered: there was an answer that says so. Otherwise the connection was cut while the head went out.
    """

    def __init__(self, error: AgentError, *, answered: bool) -> None:
        super().__init__(error.code, error.detail, retry_after=error.retry_after)
        self.answered = answered


class Credential(enum.Enum):
    """What a resource request carries."""

    BEARER = "bearer"
    COOKIE = "cookie"


def usable(session: SessionRef | None, endpoint: str, now: float) -> bool:
    """Whether a session can stand for the guest.

    Args:
        session: the token's, when this process made it.
        endpoint: base URL of the endpoint that is asked.
        now: seconds on the boot clock.
    """
    # T-KBS-84: the cookie is as good as the token, and goes to the endpoint that made it and nowhere else.
    return (
        session is not None and session.endpoint == endpoint and now + limits.SESSION_MARGIN < session.until
    )


def choose(size: int, limit: int, *, usable: bool) -> Credential:
    """What to send first.

    Args:
        size: bytes of the token.
        limit: bytes of a token that the endpoint takes in a request head.
        usable: see :func:`usable`.
    """
    return Credential.COOKIE if size > limit and usable else Credential.BEARER


def head_refused(error: AgentError, status: int | None, *, connected: bool, size: int) -> bool:
    """Whether a request with a token was refused for the size of its head.

    Args:
        error: how it ended.
        status: of the answer, or None when there was none.
        connected: the connection stood, so that one without an answer broke while the head went out.
        size: bytes of the token.
    """
    if size < limits.TOKEN_HEADER_SMALL or error.problem is not None:
        return False
    if status is not None:
        return status in _HEAD_STATUSES
    return connected and error.code is ErrorCode.KBS_UNREACHABLE


def session_gone(error: AgentError) -> bool:
    """Whether an answer to a cookie says that the broker has forgotten the session."""
    return error.code is ErrorCode.TOKEN_REJECTED


def asked_for(error: AgentError) -> float:
    """Seconds that the broker asked to be left alone, as far as it is believed."""
    return min(error.retry_after or 0.0, limits.RETRY_AFTER_MAX)


def pause_within(failed: int, error: AgentError, chance: Callable[[], float], left: float) -> float | None:
    """Seconds until the next try, or None when there is none: it cannot help, or there is no time for it.

    A pause that would outlast the caller is cut, so that there is a try towards the end; never below what
    the broker asked for.

    Args:
        failed: tries that failed so far, from 1.
        error: how the last one ended.
        chance: 0 to 1, uniformly.
        left: seconds until the deadline.
    """
    pause = Backoff().pause(failed, error, chance)
    if pause is None or left < limits.RETRY_LEAST:
        return None
    if pause < left:
        return pause
    asked = asked_for(error)
    return asked + (left - asked) * (0.5 + 0.4 * chance()) if asked < left else None
