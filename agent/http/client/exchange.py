"""What the client is asked, what it answers, and when it asks a second time. No IO."""

from __future__ import annotations

import enum
import errno
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from agent.config import limits
from agent.secret import without

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.http.messages import ResponseHead
    from agent.http.tls import Trust
    from agent.http.url import Url

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What the kernel says when this guest, not its peer, has nothing left."""

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class Repeat(enum.Enum):
    """Whether a request may go out a second time."""

    NEVER = "never"
    KEPT = "when a kept connection ended before any byte of an answer"
    LOST = "when a connection, kept or not, ended before any byte of an answer"


class Step(enum.Enum):
    """What an exchange begins to wait for."""

    NAME = "name"
    CONNECT = "connect"
    TLS = "tls"
    ANSWER = "answer"


class Steps(Protocol):
    """Hears where an exchange is."""

    def reached(self, step: Step, *, kept: bool = False) -> None:
        """It waits for this from now on.

        Args:
            step: ``ANSWER`` as soon as the connection stands, right before the request goes out.
            kept: the connection was kept from an earlier exchange.
        """


class _Unwatched:
    def reached(self, step: Step, *, kept: bool = False) -> None:
        """Nobody is interested."""


UNWATCHED: Final[Steps] = _Unwatched()


class Request(msgspec.Struct, frozen=True):
    """One request.

    Attributes:
        method: upper case.
        url: its target is sent as it is.
        wanted: called once, as soon as the answer's head is there, with that; gives how many bytes of a body
            are of use.
        headers: besides ``Host``, ``Content-Length`` and those that every request of the client has.
        body: sent with its length; or None.
        repeat: whether it may go out again.
        connect: seconds for connection set-up.
        trust: TLS settings, for https.
    """

    method: str
    url: Url
    wanted: Callable[[ResponseHead], int]
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: bytes | None = None
    repeat: Repeat = Repeat.NEVER
    connect: float = limits.KBS_CONNECT
    trust: Trust | None = None

    def __repr__(self) -> str:
        return without(self, "headers", "body")


class Response(msgspec.Struct, frozen=True):
    """One answer.

    Attributes:
        head: status 200 or above.
        body: None when it is larger than wanted.
    """

    head: ResponseHead
    body: bytes | None

    def __repr__(self) -> str:
        return without(self, "head", "body")

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.head.status

    def first(self, name: str) -> str:
        """The first line of a header.

        Args:
            name: lower case.
        """
        return next(iter(self.head.headers.get(name, ())), "")


def compressed(head: ResponseHead) -> bool:
    """Whether the body is not as it is: nobody asked for that, and nothing here unfolds it."""
    return any(value.lower() != "identity" for value in head.headers.get("content-encoding", ()))


class Trouble(enum.Enum):
    """Why there is no answer."""

    REFUSED = "the request cannot be sent"
    CLOSED = "the client is closed"
    NAME = "the name cannot be resolved"
    CONNECT = "no connection"
    PROXY = "the proxy cannot be reached"
    TUNNEL = "the proxy does not connect us"
    TLS = "no TLS"
    PLAIN = "the port does not speak TLS"
    TIME = "no connection in time"
    UNSENT = "the connection ended before anything was sent"
    SILENT = "the connection ended before an answer"
    BROKEN = "the answer broke off"
    FRAMING = "the answer is not HTTP as it should be"


class HttpError(Exception):
    """An exchange without an answer. Its text holds nothing that a peer said.

    Attributes:
        trouble: what kind of.
        detail: the reason, in words of ours, the kernel's or OpenSSL's.
        errno: the kernel's number, or 0.
        status: of a proxy that refused, or 0.
    """

    def __init__(self, trouble: Trouble, detail: str, *, errno: int = 0, status: int = 0) -> None:
        super().__init__(detail)
        self.trouble = trouble
        self.detail = detail
        self.errno = errno
        self.status = status

    @property
    def exhausted(self) -> bool:
        """This guest has nothing left; the peer may be well."""
        return self.errno in EXHAUSTED


_KEPT: Final = {Repeat.KEPT, Repeat.LOST}
_AGAIN: Final[dict[Trouble | int, tuple[set[Repeat], set[Repeat]]]] = {
    # how it ended: which requests go out again after a kept, and after a new connection
    Trouble.UNSENT: ({*Repeat}, {*Repeat}),  # nothing of it was taken, for certain
    Trouble.SILENT: (_KEPT, {Repeat.LOST}),
    408: (_KEPT, set()),  # it was said to the idle connection, while ours was on its way (RFC 9110 15.5.9)
    421: (_KEPT, _KEPT),  # another connection may lead to who is responsible (RFC 9110 15.5.20)
    425: (_KEPT, _KEPT),  # not while a handshake could still be replayed (RFC 8470 5.2)
}


def again(repeat: Repeat, end: Trouble | int, *, kept: bool) -> bool:
    """Whether a request goes out a second time, on a connection of its own.

    Args:
        repeat: of the request.
        end: how it ended: a trouble, or the status of the answer.
        kept: its connection was kept from an earlier exchange.
    """
    # T-HTTP-48: what may have been taken is repeated only when the request says that this does no harm.
    after_kept, after_new = _AGAIN.get(end, (set(), set()))
    return repeat in (after_kept if kept else after_new)
