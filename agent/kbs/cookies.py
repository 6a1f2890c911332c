"""Cookies that an endpoint sets beside the session's own: a balancer finds its broker again by them.

Of two brokers that keep their sessions in memory, ``/attest`` must reach the one that answered ``/auth``.
Pure: the time is passed in, and nothing here is sent. RFC 6265 with the prefixes of its revision, and
stricter: a cookie goes back to the very origin that set it, ``Domain`` or not.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.kbs.skew import MONTHS, parse_date
from agent.secret import Secret, without

if TYPE_CHECKING:
    from collections.abc import Iterable

SESSION: Final = "kbs-session-id"
"""The broker's own cookie (kbs_protocol.md 1.5): never in a jar, the session keeps it."""

_ATTRIBUTES: Final = 16
_NAME: Final = re.compile(r"[!-:<>-~]{1,256}", re.ASCII)
_VALUE: Final = re.compile(r"[ -:<-~]{0,4096}", re.ASCII)
_PATH: Final = re.compile(r"/[ -:<-~]{0,1023}", re.ASCII)
_SECONDS: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)

# RFC 6265 5.1.1: the forms that balancers send are many, and all of them are read by these rules.
_DELIMITERS: Final = re.compile(r"[\t -/;-@\[-`{-~]+")
_TIME: Final = re.compile(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?:[^0-9].*)?", re.ASCII | re.DOTALL)
_DAY: Final = re.compile(r"([0-9]{1,2})(?:[^0-9].*)?", re.ASCII | re.DOTALL)
_YEAR: Final = re.compile(r"([0-9]{2,4})(?:[^0-9].*)?", re.ASCII | re.DOTALL)


class Place(msgspec.Struct, frozen=True):
    """Where a request goes.

    Attributes:
        origin: scheme, host and port as one text, the same for the same.
        host: lower case, without brackets.
        path: as in the request line, without the query.
        secure: by TLS.
    """

    origin: str
    host: str
    path: str
    secure: bool


class SetCookie(msgspec.Struct, frozen=True):
    """One ``Set-Cookie`` line, as far as it can be read.

    Attributes:
        name: not empty, printable ASCII without ``=`` and ``;``.
        value: as sent, quotes included; may be empty.
        attributes: by lower-case name; of two, the last one.
    """

    name: str
    value: str
    attributes: dict[str, str]

    def __repr__(self) -> str:
        return without(self, "value", "attributes")

    def life(self, date: str) -> float | None:
        """Seconds left; 0 or less for a deletion; None when the line does not say.

        ``Max-Age`` counts before ``Expires``, and that by the sender's clock.

        Args:
            date: ``Date`` of the same answer. Without one, only times before this release are over.
        """
        if _SECONDS.fullmatch(age := self.attributes.get("max-age", "")):
            return float(age)
        expires = cookie_date(self.attributes.get("expires", ""))
        if expires is None:
            return None
        now = parse_date(date)
        if now is None:
            return 0.0 if expires < limits.RELEASED else None
        return expires - now


class Cookie(msgspec.Struct, frozen=True):
    """One cookie.

    Attributes:
        name: of it.
        value: ASCII.
        origin: that set it.
        domain: ``Domain``, or empty; a part of its identity only.
        path: requests below this one carry it.
        secure: by TLS only.
        until: boot clock, in seconds; ``math.inf`` for as long as the session.
    """

    name: str
    value: Secret
    origin: str
    domain: str
    path: str
    secure: bool
    until: float

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """A later one of the same identity replaces it."""
        return self.origin, self.domain, self.path, self.name

    @property
    def size(self) -> int:
        """Bytes of it in a request's head."""
        return len(self.name) + len(self.value) + 3

    def goes_to(self, place: Place) -> bool:
        """Whether a request there carries it, as long as it lives."""
        # T-KBS-95: it goes to the scheme, host and port that set it, and nowhere else.
        # T-KBS-98: one that is for TLS does not go without.
        known = self.origin == place.origin and (place.secure or not self.secure)
        return known and path_match(place.path, self.path)


class Jar(msgspec.Struct, frozen=True):
    """The cookies of one session, bounded; the one that was set last comes last."""

    cookies: tuple[Cookie, ...] = ()

    def __repr__(self) -> str:
        return f"Jar({len(self.cookies)} cookies)"

    def updated(self, lines: Iterable[str], place: Place, date: str, now: float) -> Jar:
        """The jar after an answer.

        Args:
            lines: ``Set-Cookie`` lines as received; those that cannot be used are left out.
            place: where the request went.
            date: ``Date`` of the answer.
            now: boot clock, in seconds.
        """
        kept = {one.identity: one for one in self.cookies if one.until > now}
        for line in lines:
            cookie = _made(line, place, date, now)
            if cookie is None:
                continue
            kept.pop(cookie.identity, None)
            if cookie.until > now:
                kept[cookie.identity] = cookie
        return Jar(bounded(kept.values()))

    def header(self, place: Place, now: float) -> str:
        """What a request there carries: ``name=value`` joined by ``; ``, the longest paths first."""
        due = [one for one in self.cookies if one.until > now and one.goes_to(place)]
        due.sort(key=lambda one: -len(one.path))
        return "; ".join(f"{one.name}={one.value.reveal().decode('ascii')}" for one in due)

    def wipe(self) -> None:
        """Overwrite the values."""
        for one in self.cookies:
            one.value.wipe()


def read_line(line: str) -> SetCookie | None:
    """One ``Set-Cookie`` line; None when it names no cookie that may be sent back."""
    pair, *rest = line.split(";", _ATTRIBUTES)
    name, equals, value = (part.strip(" \t") for part in pair.partition("="))
    # T-KBS-96: both become a part of a request's head, so nothing that could end a line or a cookie passes.
    if not equals or not usable(name, value):
        return None
    attributes = {}
    for text in rest[: _ATTRIBUTES - 1]:
        key, _, said = text.partition("=")
        attributes[key.strip(" \t").lower()] = said.strip(" \t")
    return SetCookie(name, value, attributes)


def usable(name: str, value: str, path: str = "/") -> bool:
    """Whether these may stand in a request's head."""
    return bool(_NAME.fullmatch(name) and _VALUE.fullmatch(value) and _PATH.fullmatch(path))


def bounded(cookies: Iterable[Cookie]) -> tuple[Cookie, ...]:
    """The latest of ``cookies``, in their order: as many as a session may keep."""
    kept: list[Cookie] = []
    room = limits.KBS_COOKIES_SIZE
    # T-KBS-97: a balancer must not fill the memory, nor the head of every request.
    for one in reversed(tuple(cookies)):
        if one.size <= room and len(kept) < limits.KBS_COOKIES:
            kept.append(one)
            room -= one.size
    return tuple(reversed(kept))


def path_match(asked: str, path: str) -> bool:
    """Whether a request's path is ``path`` or below it (RFC 6265 5.1.4)."""
    return asked == path or (asked.startswith(path) and (path.endswith("/") or asked[len(path)] == "/"))


def cookie_date(text: str) -> float | None:
    """Seconds since the Unix epoch for a cookie's date in any form (RFC 6265 5.1.1); None when it is none.

    Dates before 1970 are negative.
    """
    time = day = month = year = None
    for token in _DELIMITERS.split(text[:128]):
        if time is None and (found := _TIME.fullmatch(token)):
            time = found
        elif day is None and (found := _DAY.fullmatch(token)):
            day = int(found[1])
        elif month is None and token[:3].title() in MONTHS:
            month = MONTHS.index(token[:3].title()) + 1
        elif year is None and (found := _YEAR.fullmatch(token)):
            year = int(found[1])
    if time is None or day is None or month is None or year is None:
        return None
    if year < 100:
        year += 2000 if year < 70 else 1900
    try:
        hours, minutes, seconds = (int(part) for part in time.groups())
        return datetime(year, month, day, hours, minutes, seconds, tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _made(line: str, place: Place, date: str, now: float) -> Cookie | None:
    """The cookie of one line, for an answer from ``place``; one that is over for a deletion."""
    read = read_line(line)
    if read is None or read.name == SESSION:
        return None
    attributes = read.attributes
    secure = "secure" in attributes
    domain = attributes.get("domain", "").removeprefix(".").lower()
    path = attributes.get("path", "")
    # T-KBS-98: and none is taken without TLS that only TLS may set.
    if (secure and not place.secure) or not _prefix_holds(read.name.lower(), attributes, secure=secure):
        return None
    # T-KBS-99: an endpoint speaks for its own name and those above it.
    if domain and domain != place.host and not _below(place.host, domain):
        return None
    if not path.startswith("/"):
        path = place.path[: place.path.rfind("/")] or "/"
    if not _PATH.fullmatch(path):
        return None
    life = read.life(date)
    until = math.inf if life is None else now + min(life, limits.SESSION_MAX_LIFE)
    return Cookie(read.name, Secret(read.value.encode()), place.origin, domain, path, secure, until)


def _prefix_holds(name: str, attributes: dict[str, str], *, secure: bool) -> bool:
    if name.startswith("__host-"):
        return secure and not attributes.get("domain") and attributes.get("path") == "/"
    return secure or not name.startswith("__secure-")


def _below(host: str, domain: str) -> bool:
    return host.endswith(f".{domain}") and not host.replace(".", "").isdigit() and ":" not in host
