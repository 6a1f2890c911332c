"""Bytes through the readers of :mod:`agent.http.parser`, whole or in pieces, as a connection would do it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from agent.http.messages import Bounds, FramingError, RequestHead
from agent.http.parser import RequestReader, ResponseReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from agent.http.messages import ResponseHead

BOUNDS: Final = Bounds(head=16 * 1024, start=8 * 1024, fields=100, framing=16 * 1024, interim=8)

End: TypeAlias = Literal["idle", "unfinished", "refused", "closed"]


@dataclass(frozen=True)
class Message:
    """One message as it was understood.

    Attributes:
        start: method and target, or the status.
    """

    start: str
    body: bytes
    headers: Mapping[str, Sequence[str]]
    version: tuple[int, int]
    keep: bool
    expects: bool = False

    @property
    def lines(self) -> int:
        return sum(map(len, self.headers.values()))


@dataclass(frozen=True)
class Outcome:
    """What one connection's bytes are.

    Attributes:
        messages: in order; of answers only those that count.
        end: ``closed`` when nothing more is read behind a message that ends the connection.
    """

    messages: tuple[Message, ...]
    end: End

    def brief(self) -> tuple[tuple[tuple[str, bytes], ...], End]:
        return tuple((each.start, each.body) for each in self.messages), self.end


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """The data cut at these places."""
    before = 0
    for cut in [*sorted(cuts), len(data)]:
        if cut > before:
            yield data[before:cut]
            before = cut


def one_by_one(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def requests(parts: Iterable[bytes], bounds: Bounds = BOUNDS) -> Outcome:
    """What a server reads."""
    return _Connection(RequestReader(bounds), bounds, tunnel=False).run(parts)


def answers(parts: Iterable[bytes], bounds: Bounds = BOUNDS, *, tunnel: bool = False) -> Outcome:
    """What a client reads until the connection ends; ``unfinished`` when it ends within an answer."""
    return _Connection(ResponseReader(bounds, tunnel=tunnel), bounds, tunnel=tunnel).run(parts)


class _Connection:
    def __init__(self, reader: RequestReader | ResponseReader, bounds: Bounds, *, tunnel: bool) -> None:
        self._reader = reader
        self._bounds = bounds
        self._tunnel = tunnel
        self._messages: list[Message] = []

    def run(self, parts: Iterable[bytes]) -> Outcome:
        end: End = "refused"
        with suppress(FramingError):
            end = self._feed(parts)
        return Outcome(tuple(self._messages), end)

    def _feed(self, parts: Iterable[bytes]) -> End:
        for part in parts:
            at = 0
            while at < len(part):
                taken = self._reader.feed(part[at:])
                at += taken
                self._hold()
                assert self._reader.complete or at == len(part), "bytes were left in the middle of a message"
                if self._reader.complete and not self._next():
                    return "closed"
        if isinstance(self._reader, ResponseReader) and self._reader.head is not None:
            return self._close(self._reader)
        return "unfinished" if self._reader.started else "idle"

    def _hold(self) -> None:
        """What is kept is never more than what was allowed and came."""
        around = self._bounds.head + self._bounds.framing
        assert 0 <= self._reader.held <= around + self._reader.received

    def _close(self, reader: ResponseReader) -> End:
        try:
            reader.finish()
        except FramingError:
            return "unfinished"
        self._next()
        return "closed"

    def _next(self) -> bool:
        head = self._reader.head
        assert head is not None
        body = self._reader.take()
        assert len(body) == self._reader.received
        self._messages.append(_message(head, body))
        self._reader.clear()
        assert (self._reader.held, self._reader.started) == (0, False)
        made = self._tunnel and not isinstance(head, RequestHead) and head.status < 300
        return head.keep and not made


def _message(head: RequestHead | ResponseHead, body: bytes) -> Message:
    return Message(
        start=f"{head.method} {head.target}" if isinstance(head, RequestHead) else str(head.status),
        body=body,
        headers=head.headers,
        version=head.version,
        keep=head.keep,
        expects=isinstance(head, RequestHead) and head.expects,
    )
