"""Cookies, their life and redirects: what the broker's head lines are believed to say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.kbs.credential import COOKIE_VALUE
from agent.kbs.skew import parse_date

if TYPE_CHECKING:
    from agent.http.url import Url
    from agent.kbs.credential import SessionRef

COOKIE: Final = "kbs-session-id"

_LOCATION: Final = re.compile(r"[!-\[\]-~]{1,4096}", re.ASCII)  # printable, no backslash


def session_cookie(lines: tuple[str, ...]) -> str:
    """The session id in ``Set-Cookie`` lines (kbs_protocol.md 1.5).

    Raises:
        AgentError: KBS_BAD_RESPONSE, none that is usable.
    """
    for name, value, _ in reversed([_cookie_parts(line) for line in lines]):
        # T-KBS-71: it is sent back in a head line, so only short and harmless values are believed.
        if name == COOKIE and COOKIE_VALUE.fullmatch(value):
            return value
    raise AgentError(ErrorCode.KBS_BAD_RESPONSE, "/auth gave no usable session cookie")


def session_life(lines: tuple[str, ...], date: str) -> float:
    """Seconds until the broker forgets the session: ``Expires`` of its cookie, by the broker's own clock.

    Args:
        lines: ``Set-Cookie`` lines.
        date: ``Date`` of the same answer.

    Returns:
        ``limits.SESSION_LIFE`` when either is missing; never more than ``limits.SESSION_MAX_LIFE``.
    """
    expires = next(
        (when for name, _, when in (_cookie_parts(line) for line in lines) if name == COOKIE), None
    )
    now = parse_date(date)
    if expires is None or now is None:
        return limits.SESSION_LIFE
    return min(max(0.0, expires - now), limits.SESSION_MAX_LIFE)


def _cookie_parts(line: str) -> tuple[str, str, float | None]:
    pair, *attributes = line.split(";", 16)
    name, _, value = pair.partition("=")
    named = (attribute.strip().partition("=") for attribute in attributes)
    expires = next((text for key, _, text in named if key.lower() == "expires"), "")
    return name.strip(), value.strip(), parse_date(expires)


def cookie_header(session: SessionRef) -> dict[str, str]:
    """The request header that stands for ``session``."""
    return {"Cookie": f"{COOKIE}={session.cookie.reveal().decode('ascii')}"}


def same_origin(url: Url, location: str) -> Url | None:
    """Where a redirect leads, when that has the scheme, host and port of ``url``."""
    if not _LOCATION.fullmatch(location):
        return None
    try:
        target = url.join(location)
    except ValueError:
        return None
    return target if target.origin == url.origin else None
