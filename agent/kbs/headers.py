"""Cookies, their life and redirects: what the broker's head lines are believed to say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.http.url import PORTS, Url
from agent.kbs.cookies import SESSION, Jar, Place, read_line
from agent.kbs.credential import COOKIE_VALUE
from agent.secret import Secret

if TYPE_CHECKING:
    from agent.kbs.cookies import SetCookie
    from agent.kbs.credential import SessionRef

_LOCATION: Final = re.compile(
    r"(?:(?:(?P<scheme>https?):)?//(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?)?"
    r"(?P<path>/[!-\"$-\[\]-~]{0,8191})",
    re.ASCII | re.IGNORECASE,
)  # printable, without fragment and backslash
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)*", re.ASCII)
_API: Final = "/kbs/v0/"


class Cookies(msgspec.Struct):
    """The cookies of one exchange: what its requests carry, and what their answers leave.

    Attributes:
        session: that stands for the guest; None: the exchange begins without cookies, and what it is given on
            the way ends with it.
        jar: of an exchange without a session.
    """

    session: SessionRef | None = None
    jar: Jar = Jar()

    def header(self, url: Url, now: float) -> dict[str, str]:
        """The head line of a request at ``now`` on the boot clock; none without cookies."""
        session, place = self.session, place_of(url)
        known = self.jar if session is None else session.jar
        own = [] if session is None else [f"{SESSION}={session.cookie.reveal().decode('ascii')}"]
        others = known.header(place, now)
        text = "; ".join([*own, others] if others else own)
        return {"Cookie": text} if text else {}

    def heard(self, url: Url, lines: tuple[str, ...], date: str, sent: float) -> None:
        """An answer came, whatever its status.

        Args:
            url: where the request went.
            lines: ``Set-Cookie`` lines.
            date: ``Date`` of the answer.
            sent: boot clock, in seconds, when the request went out.
        """
        if not lines:
            return
        place, session = place_of(url), self.session
        if session is None:
            self.jar = self.jar.updated(lines, place, date, sent)
            return
        session.jar = session.jar.updated(lines, place, date, sent)
        told = _session_line(lines, date)
        if told is None:
            return
        life = told.life(date)
        if life is not None and life <= 0:
            session.until = sent  # deleted
            return
        if not COOKIE_VALUE.fullmatch(told.value):  # T-KBS-71
            return
        cookie = Secret(told.value.encode())
        if life is not None or cookie != session.cookie:
            session.until = sent + _life(life)
        session.cookie.wipe()
        session.cookie = cookie


def session_cookie(lines: tuple[str, ...], date: str = "") -> str:
    """The session id in ``Set-Cookie`` lines (kbs_protocol.md 1.5), behind however many others.

    By the protocol it goes to the endpoint that set it as long as the handshake and its token last, so its
    path, domain and the like do not count.

    Args:
        lines: ``Set-Cookie`` lines.
        date: ``Date`` of the same answer.

    Raises:
        AgentError: KBS_BAD_RESPONSE, none that is usable.
    """
    told = _session_line(lines, date)
    # T-KBS-71: it is sent back in a head line, so only short and harmless values are believed.
    if told is None or not COOKIE_VALUE.fullmatch(told.value):
        raise AgentError(ErrorCode.KBS_BAD_RESPONSE, "/auth gave no usable session cookie")
    return told.value


def session_life(lines: tuple[str, ...], date: str) -> float:
    """Seconds until the broker forgets the session: what its cookie says, by the broker's own clock.

    Args:
        lines: ``Set-Cookie`` lines.
        date: ``Date`` of the same answer.

    Returns:
        ``limits.SESSION_LIFE`` when that is not known; never more than ``limits.SESSION_MAX_LIFE``.
    """
    told = _session_line(lines, date)
    return _life(None if told is None else told.life(date))


def _life(seconds: float | None) -> float:
    return limits.SESSION_LIFE if seconds is None else min(max(0.0, seconds), limits.SESSION_MAX_LIFE)


def _session_line(lines: tuple[str, ...], date: str) -> SetCookie | None:
    """The session's cookie: the last one with a value that lives; else the last one."""
    found = [told for told in map(read_line, lines) if told is not None and told.name == SESSION]
    usable = [told for told in found if COOKIE_VALUE.fullmatch(told.value)]
    alive = [told for told in usable if _lives(told.life(date))]
    return next(iter((alive or usable or found)[-1:]), None)


def _lives(seconds: float | None) -> bool:
    return seconds is None or seconds > 0


def place_of(url: Url) -> Place:
    """Where a request to ``url`` goes, as cookies see it."""
    scheme, host, port = url.origin
    path = url.target.partition("?")[0]
    return Place(f"{scheme}://{host}:{port}", host, path, secure=url.secure)


def same_resource(url: Url, base: str, location: str) -> Url | None:
    """Where a redirect leads, when that is the same resource at the same scheme, host and port.

    Its path ends in the very characters that follow the base Url in ``url``: ``/kbs/v0/`` and the rest, query
    included. What is before that may be another prefix: of plain segments, without dot segments, percent
    escapes and a ``/kbs/v0/`` of its own.

    Args:
        url: that was asked.
        base: Url of the endpoint; ``url`` begins with it.
        location: as received; an absolute Url or an absolute path.
    """
    found = _LOCATION.fullmatch(location)
    if found is None:
        return None
    own = _path_of(base)
    tail = url.target[len(own) :]
    path = found["path"]
    # T-KBS-100: one resource is never handed out for another.
    if not path.endswith(tail) or not tail.startswith(_API):
        return None
    prefix = path[: -len(tail)]
    if prefix != own and not _plain(prefix):
        return None
    if found["host"] and not _at(url, found["scheme"], found["host"], found["port"]):
        return None
    return Url.parse(base[: len(base) - len(own)] + path)


def _plain(prefix: str) -> bool:
    dots = {".", ".."}.intersection(prefix.split("/"))
    return bool(_PREFIX.fullmatch(prefix)) and not dots and _API not in f"{prefix}/"


def _path_of(base: str) -> str:
    _, slash, path = base.partition("://")[2].partition("/")
    return slash + path


def _at(url: Url, scheme: str | None, host: str, port: str | None) -> bool:
    scheme = (scheme or url.scheme).lower()
    there = scheme, host.lower().strip("[]"), int(port) if port else PORTS[scheme]
    return there == (url.scheme, url.host, url.port)
