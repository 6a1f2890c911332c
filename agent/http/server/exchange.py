"""What a server and its application say to each other: answers and refusals."""

from __future__ import annotations

import enum
import time
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any, TypeAlias

    from agent.http.messages import RequestHead

    ReadBody: TypeAlias = Callable[[int], Awaitable[bytes]]

OCTETS: Final = "application/octet-stream"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_WITHOUT_BODY: Final = frozenset({204, 304})
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class Answer(msgspec.Struct, frozen=True):
    """A whole response.

    Attributes:
        status: HTTP status, 200 or above.
        body: sent as it is; not sent to HEAD.
        content_type: value of Content-Type.
        headers: further headers, ASCII and free of line ends.
        close: end the connection after it.
    """

    status: int
    body: bytes
    content_type: str = OCTETS
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False


class Refusal(enum.Enum):
    """Why a request is refused by the connection it came on."""

    NOT_HTTP = "not an HTTP request"
    TOO_LARGE = "the request line or a header field is too large"
    BODY_NOT_FRAMED = "the request body is not framed as announced"
    BODY_TOO_LARGE = "the request body is too large"
    TOO_SLOW = "the request body came too slowly"
    NO_ROOM = "too many bytes are held for all connections together"


class BodyError(ValueError):
    """A body that is not there and will not come.

    Attributes:
        refusal: why.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


class Loss(enum.Enum):
    """Why a server ended a connection, or did not take it, against the wish of its client."""

    FULL = "full"
    """Every place is taken and all have requests under way."""
    REPLACED = "replaced"
    """It had no request under way, and a new connection needed its place."""
    EVICTED = "evicted"
    """It made no progress for longest, and its bytes were needed."""
    NO_ROOM = "no_room"
    """No bytes were left for it."""
    SLOW_HEAD = "slow_head"
    SLOW_BODY = "slow_body"
    SLOW_READER = "slow_reader"


class Side(Protocol):
    """One connection's application."""

    def answer(self, head: RequestHead, body: ReadBody) -> Answer | Coroutine[Any, Any, Answer]:
        """Answer a request: at once, or by a coroutine when something has to be waited for.

        Args:
            head: of the request.
            body: reads a body of at most so many bytes; raises :class:`BodyError`.
        """

    def refuse(self, refusal: Refusal) -> Answer:
        """The answer to a request that the connection refused. It ends the connection."""

    def broken(self, error: Exception) -> Answer:
        """The answer when :meth:`answer` raised: a defect."""


class Application(Protocol):
    """What a server serves."""

    def meet(self, transport: asyncio.Transport) -> Side:
        """A client has connected."""

    def lost(self, loss: Loss) -> None:
        """A connection was ended or refused."""


def has_body(answer: Answer, method: str) -> bool:
    """Whether the answer's body is sent (RFC 9110 6.4.1)."""
    return method != "HEAD" and answer.status not in _WITHOUT_BODY


def encode_head(answer: Answer, connection: str) -> bytes:
    """The head of an answer.

    Args:
        answer: whose.
        connection: value of Connection; empty for none.
    """
    lines = [_start(answer.status, answer.content_type)]
    lines += [f"{name}: {value}\r\n" for name, value in answer.headers]
    if answer.status not in _WITHOUT_BODY:
        lines.append(f"Content-Length: {len(answer.body)}\r\n")
    lines.append(_date(int(time.time())))
    if connection:
        lines.append(f"Connection: {connection}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("ascii")


@lru_cache(maxsize=64)
def _start(status: int, content_type: str) -> str:
    kind = "" if status in _WITHOUT_BODY else f"Content-Type: {content_type}\r\n"
    return f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n{kind}"


@lru_cache(maxsize=1)
def _date(seconds: int) -> str:
    return time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(seconds))
