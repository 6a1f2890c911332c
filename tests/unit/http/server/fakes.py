"""A server without sockets: its clients are transports that remember what they were given."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from agent.http.budget import Budget
from agent.http.messages import Bounds
from agent.http.relief import Relief
from agent.http.server.connection import Connection
from agent.http.server.exchange import Answer, Loss, Refusal
from agent.http.server.phase import Times
from agent.http.server.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from agent.http.messages import RequestHead
    from agent.http.server.exchange import ReadBody

BOUNDS = Bounds(head=4096, start=1000, fields=20, framing=4096)
TIMES = Times(
    idle=75,
    head=5,
    body_grace=5,
    body_rate=1000,
    write_grace=20,
    write_rate=1000,
    linger=1,
    place=0.1,
    pace=0.25,
)


class Transport(asyncio.Transport):
    """Takes ``room`` bytes at once, and the rest when :meth:`drain` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = bytearray()
        self.waiting = bytearray()
        self.room = 1 << 30
        self.reading = True
        self.closed = self.aborted = self.ended = False
        self.connection: Any = None
        self.options: list[tuple[int, int, Any]] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" else default

    family = socket.AF_INET

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self.options.append((level, option, value))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended
        now = min(self.room, len(data))
        self.room -= now
        self.taken += data[:now]
        if now < len(data):
            self.waiting += data[now:]
            self.connection.pause_writing()

    def drain(self, size: int) -> None:
        """The kernel takes some more."""
        self.taken += self.waiting[:size]
        del self.waiting[:size]
        if not self.waiting:
            self.connection.resume_writing()

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.closed

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True
        self.waiting.clear()

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True


class Application:
    """Answers every request with its target, unless told otherwise."""

    def __init__(self) -> None:
        self.heads: list[RequestHead] = []
        self.losses: list[Loss] = []
        self.how: Callable[[RequestHead, ReadBody], Answer | Coroutine[Any, Any, Answer]] = echo

    def meet(self, _: asyncio.Transport) -> Application:
        return self

    def lost(self, loss: Loss) -> None:
        self.losses.append(loss)

    def answer(self, head: RequestHead, body: ReadBody) -> Answer | Coroutine[Any, Any, Answer]:
        self.heads.append(head)
        return self.how(head, body)

    def refuse(self, refusal: Refusal) -> Answer:
        return Answer(400, refusal.name.encode())

    def broken(self, error: Exception) -> Answer:
        return Answer(500, type(error).__name__.encode())


def echo(head: RequestHead, _: ReadBody) -> Answer:
    return Answer(200, head.target.encode())


class House:
    """One server; its clock is ``now``."""

    def __init__(self, *, most: int = 10, budget: Budget | None = None) -> None:
        self.application = Application()
        self.budget = budget or Budget(1 << 20, 0)
        self.server = Server(self.application, BOUNDS, TIMES, budget=self.budget, relief=Relief(), most=most)
        self.connections: list[Connection] = []
        self.time = 1000.0
        self.server.now = lambda: self.time

    def connect(self, *, room: int = 1 << 30) -> tuple[Connection, Transport]:
        connection, transport = Connection(self.server), Transport()
        self.connections.append(connection)
        transport.connection, transport.room = connection, room
        connection.connection_made(transport)
        return connection, transport

    def send(self, connection: Connection, data: bytes) -> None:
        """Bytes arrive in one read."""
        view = connection.get_buffer(-1)
        view[: len(data)] = data
        connection.buffer_updated(len(data))
        view[: len(data)] = bytes(len(data))  # the buffer is everybody's
