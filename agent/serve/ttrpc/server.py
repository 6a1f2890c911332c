"""A ttrpc server on a listening Unix socket: many calls per connection, answers in any order."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import struct
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import msgspec

from agent.config import limits
from agent.errors import ErrorCode, RpcCode
from agent.http.budget import Budget
from agent.observe.redact import locations
from agent.serve.ttrpc.codec import (
    REMOTE_OPEN,
    EnvelopeError,
    FrameType,
    Oversized,
    Request,
    StatusError,
    encode_response,
    encode_status,
    parse_request,
)
from agent.serve.ttrpc.holding import Inbox, Load, Outbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from agent.serve.ttrpc.codec import Event, Frame

_UCRED: Final = struct.Struct("3i")
_log = logging.getLogger(__name__)


class Context(msgspec.Struct, frozen=True):
    """What a handler knows about its call.

    Attributes:
        peer: the caller's kernel credentials, ``pid=… uid=…``.
        timeout: seconds the caller waits; None when it named no limit.
        uid: the caller's user, as the kernel reports it.
    """

    peer: str
    timeout: float | None
    uid: int = -1


if TYPE_CHECKING:
    Handler: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]
    Services: TypeAlias = Mapping[str, Mapping[str, Handler]]


class TtrpcServer:
    """Serves ``services`` (service name to method name to handler).

    A handler gets the payload and returns the answer's payload; it raises :class:`StatusError` to
    answer with an error. Anything else it raises is answered with INTERNAL and logged without values.

    Args:
        services: what is offered.
        budget: the account of all that callers make this process hold; by default one of its own.
    """

    def __init__(self, services: Services, budget: Budget | None = None) -> None:
        self._shared = _Shared(services, budget or Budget(limits.BUDGET, limits.BUDGET_RESERVE))
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Accept on a bound, listening Unix socket, which this server closes in :meth:`stop`."""
        loop = asyncio.get_running_loop()
        self._shared.open = True
        self._server = await loop.create_unix_server(lambda: _Connection(self._shared), sock=listener)

    async def stop(self, grace: float = limits.STOP_GRACE) -> None:
        """Accept nothing new, let calls under way finish for ``grace`` seconds, then cut."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self._shared.open = False
        connections = tuple(self._shared.connections)
        for connection in connections:
            connection.finish()
        if connections:
            await asyncio.wait([c.closed for c in connections], timeout=grace)
        for connection in connections:
            connection.cut()
        if connections:
            await asyncio.wait([c.closed for c in connections])


class _Shared(msgspec.Struct, eq=False):
    """What the connections of one server have in common; the oldest connection comes first."""

    services: Services
    budget: Budget
    load: Load = msgspec.field(default_factory=Load)
    connections: dict[_Connection, None] = msgspec.field(default_factory=dict)
    # Read into by whichever connection has bytes, and left before the next one has.
    buffer: memoryview = msgspec.field(
        default_factory=lambda: memoryview(bytearray(limits.TTRPC_READ_BUFFER))
    )
    open: bool = False

    def make_room(self) -> bool:
        """Whether another connection can be taken; an idle one is closed for it if need be."""
        # T-TTRPC-13: buffers are per connection, so connections are counted. The process with the most loses
        # one; kata-agent, which has one, waits on it for days and never connects again, loses none.
        if len(self.connections) < limits.TTRPC_MAX_CONNECTIONS:
            return True
        ((pid, most),) = Counter(connection.pid for connection in self.connections).most_common(1)
        idle = [c for c in self.connections if c.pid == pid and c.idle]
        if most <= limits.TTRPC_KEPT_CONNECTIONS or not idle:
            return False
        oldest = min(idle, key=lambda connection: connection.answered)
        del self.connections[oldest]
        oldest.cut()
        return True


class _Connection(asyncio.BufferedProtocol):
    """One caller. Never closed for being idle (kata_integration.md 9.2, rule 11)."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._asked: dict[int, int] = {}  # bytes of requests that have no answer yet
        self._inbox = Inbox(shared.budget, self._refuse)
        self._finishing = False
        self._loop = asyncio.get_running_loop()
        self._look: asyncio.TimerHandle | None = None
        self.answered = False
        self.closed: asyncio.Future[None] = self._loop.create_future()

    @property
    def idle(self) -> bool:
        """Whether no call is under way."""
        return not self._tasks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._socket: socket.socket = transport.get_extra_info("socket")
        self.pid, self._uid = _credentials(self._socket)
        self._peer = peer_text(self._socket)
        # Paused while the kernel does not take everything: what is unread is known to the byte.
        self._transport.set_write_buffer_limits(high=0)
        self._outbox = Outbox(self._shared.budget, self._transport)
        if not self._shared.open:
            self._transport.abort()  # accepted just before the server stopped
            return
        if not self._shared.make_room():
            _log.warning("ttrpc: too many connections, a new one is refused", extra={"peer": self._peer})
            self._transport.abort()
            return
        # T-TTRPC-25: the kernel's memory for unread answers is ours as well.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.TTRPC_SEND_BUFFER)
        self._shared.connections[self] = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._shared.connections.pop(self, None)
        if self._look is not None:
            self._look.cancel()
        for task in self._tasks.values():
            task.cancel()
        self._inbox.close()
        self._outbox.close()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        # T-TTRPC-14: who does not read its answers is not read from either.
        self._outbox.pause()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._outbox.resume()
        if not self._finishing:
            self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._shared.buffer

    def buffer_updated(self, nbytes: int) -> None:
        for event in self._inbox.feed(self._shared.buffer[:nbytes]):
            self._event(event)

    def eof_received(self) -> bool:
        if self._gone():
            return False
        self.finish()  # it has said all, and still reads
        return True

    def finish(self) -> None:
        """Read no more; close once the calls under way are answered."""
        if self._finishing:
            return
        self._finishing = True
        self._transport.pause_reading()
        if self._tasks:
            self._look = self._loop.call_later(limits.TTRPC_LOOK, self._watch)
        else:
            self._transport.close()

    def cut(self) -> None:
        """Close now."""
        self._transport.abort()

    def _watch(self) -> None:
        # T-TTRPC-26: nothing is read any more, so nothing else says that the peer is gone.
        if self._gone():
            self._transport.abort()
        else:
            self._look = self._loop.call_later(limits.TTRPC_LOOK, self._watch)

    def _gone(self) -> bool:
        """Whether the peer neither sends nor reads any more."""
        poll = select.poll()
        poll.register(self._socket, 0)
        return bool(poll.poll(0))

    def _event(self, event: Event) -> None:
        if isinstance(event, Oversized):
            if event.kind in {FrameType.REQUEST, FrameType.DATA}:
                text = f"message length {event.length} is above the maximum of {limits.TTRPC_MAX_BODY}"
                self._refuse(event.stream, RpcCode.INVALID_ARGUMENT, text)
        elif event.kind == FrameType.REQUEST:
            self._request(event)
        elif event.kind == FrameType.DATA and event.stream not in self._tasks:
            self._refuse(event.stream, RpcCode.INVALID_ARGUMENT, "no stream of this id is open")
        # Other types are dropped: an answer to an answer could go on for ever between two peers.

    def _request(self, frame: Frame) -> None:
        stream = frame.stream
        if stream % 2 == 0:
            self._refuse(stream, RpcCode.INVALID_ARGUMENT, "the stream id of a request must be odd")
        elif stream in self._tasks:
            # Only ids under way count: callers with threads may send their ids out of order.
            self._refuse(stream, RpcCode.INVALID_ARGUMENT, "the stream id is in use")
        elif len(self._tasks) >= limits.TTRPC_MAX_STREAMS:
            # T-TTRPC-15: calls under way are counted, finished ones that nobody reads included.
            self._refuse(stream, RpcCode.RESOURCE_EXHAUSTED, "too many requests are under way")
        elif frame.flags & REMOTE_OPEN:
            self._refuse(stream, RpcCode.UNIMPLEMENTED, "streaming calls are not supported")
        elif not self._shared.load.admits(len(self._tasks), self._outbox.asked, len(frame.body)):
            self._refuse(stream, RpcCode.RESOURCE_EXHAUSTED, "too many requests of all callers are under way")
        else:
            self._call(stream, frame.body)

    def _call(self, stream: int, body: bytes) -> None:
        try:
            request = parse_request(body)
        except EnvelopeError as error:
            self._refuse(stream, RpcCode.INVALID_ARGUMENT, f"malformed request: {error}")
            return
        service = self._shared.services.get(request.service)
        if service is None:
            text = f"{request.service} service does not exist"
            self._refuse(stream, RpcCode.INVALID_ARGUMENT, text)
            return
        handler = service.get(request.method)
        if handler is None:
            text = f"{request.method} method does not exist in {request.service}"
            self._refuse(stream, RpcCode.UNIMPLEMENTED, text)
            return
        if not self._outbox.begin(len(request.payload)):
            self._refuse(stream, RpcCode.RESOURCE_EXHAUSTED, "there is no room for so large a request now")
            return
        self._asked[stream] = len(request.payload)
        self._shared.load.begin(len(request.payload))
        task = self._loop.create_task(self._run(stream, handler, request))
        self._tasks[stream] = task
        task.add_done_callback(partial(self._done, stream, request.method))

    async def _run(self, stream: int, handler: Handler, request: Request) -> None:
        answer = await self._answer(stream, handler, request)
        del request  # what is held from here on is the answer's frame alone
        self._forget(stream)
        await self._outbox.send(stream, answer)

    async def _answer(self, stream: int, handler: Handler, request: Request) -> bytes:
        context = Context(self._peer, request.timeout, self._uid)
        try:
            async with _backstop(request.timeout):
                payload = await handler(request.payload, context)
            answer = encode_response(stream, payload)
        except TimeoutError:
            text = "the request took longer than its timeout"
            return encode_status(stream, RpcCode.DEADLINE_EXCEEDED, text)
        except StatusError as error:
            return encode_status(stream, error.code, error.message)
        except EnvelopeError:
            text = f"the answer is larger than {limits.TTRPC_MAX_BODY} bytes"
            return encode_status(stream, RpcCode.RESOURCE_EXHAUSTED, text)
        self.answered = True
        return answer

    def _forget(self, stream: int) -> None:
        """A request is no longer needed, though its answer may still wait."""
        size = self._asked.pop(stream, 0)
        self._shared.load.asked -= size
        self._outbox.end(size)

    def _done(self, stream: int, method: str, task: asyncio.Task[None]) -> None:
        del self._tasks[stream]
        self._forget(stream)
        self._shared.load.end()
        if not task.cancelled() and (error := task.exception()) is not None:
            # T-LOG-10: an exception's text may hold the value it choked on; its type and place do not.
            extra = {"verb": method, "error": type(error).__name__, "where": locations(error)}
            _log.error("request failed: defect in the agent", extra=extra)
            self._refuse(stream, RpcCode.INTERNAL, ErrorCode.INTERNAL.meaning.message)
        if self._finishing and not self._tasks:
            self._transport.close()

    def _refuse(self, stream: int, code: RpcCode, text: str) -> None:
        self._outbox.write(encode_status(stream, code, text))


def peer_text(connection: socket.socket) -> str:
    """The kernel's word on who connected: ``pid=… uid=…`` (SO_PEERCRED, unix(7)).

    The process id is 0 for a caller outside this process namespace.
    """
    pid, uid = _credentials(connection)
    return f"pid={pid} uid={uid}"


def peer_uid(connection: socket.socket) -> int:
    """The user who connected (SO_PEERCRED, unix(7))."""
    return _credentials(connection)[1]


def _credentials(connection: socket.socket) -> tuple[int, int]:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(raw)
    return pid, uid


@asynccontextmanager
async def _backstop(timeout: float | None) -> AsyncIterator[None]:
    """Cancel the body ``limits.TTRPC_BACKSTOP`` after the loop sees that the caller's time is over.

    Not after a fixed time: a loop that was held up for longer would then cut handlers that were about to say
    which phase used the time.

    Raises:
        TimeoutError: the body took longer.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as timer:
        if timeout is None:
            yield
            return
        passed = loop.call_later(timeout, lambda: timer.reschedule(loop.time() + limits.TTRPC_BACKSTOP))
        try:
            yield
        finally:
            passed.cancel()
