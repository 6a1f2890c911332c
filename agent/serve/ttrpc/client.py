"""A ttrpc client: one connection, opened when it is first needed, shared by all calls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from agent.config import limits
from agent.errors import AgentError, ErrorCode, RpcCode
from agent.serve.sockets import parse_address
from agent.serve.ttrpc.codec import (
    Decoder,
    EnvelopeError,
    FrameType,
    Oversized,
    Request,
    StatusError,
    encode_request,
    parse_response,
)

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.serve.ttrpc.codec import Event

_AHEAD: Final = 4
"""Layers of grace by which the peer is told less: its reason has two processes to pass on a busy machine."""

LAST_STREAM: Final = 2**32 - 1


class TtrpcClient:
    """Calls the services behind one socket."""

    def __init__(self, address: str) -> None:
        """Connect nothing yet.

        Raises:
            AgentError: CONFIG_INVALID (the address).
        """
        self._address = parse_address(address)
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def call(
        self, service: str, method: str, payload: bytes, deadline: Deadline, *, repeatable: bool = True
    ) -> bytes:
        """The answer's payload.

        Args:
            service: full name, e.g. ``api.GetResourceService``.
            method: name without the service.
            payload: the serialised request message.
            deadline: sent along as ``timeout_nano``, and kept here.
            repeatable: whether the call may be sent again after a kept connection turned out closed,
                when nobody knows if the first one arrived.

        Raises:
            StatusError: the server answered with an error status.
            AgentError: ROLE_UNREACHABLE, DEADLINE_EXCEEDED, PAYLOAD_TOO_LARGE.
        """
        async with deadline.backstop(f"waiting for {method}"):
            connection, kept = await self._get()
            try:
                return await connection.call(service, method, payload, deadline)
            except ConnectionError:
                if not (kept and repeatable):
                    raise self._unreachable("closed the connection without an answer") from None
            connection, _ = await self._get()
            try:
                return await connection.call(service, method, payload, deadline)
            except ConnectionError:
                raise self._unreachable("closed the connection without an answer") from None

    async def close(self) -> None:
        """Close the connection; calls under way fail with ROLE_UNREACHABLE."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _get(self) -> tuple[_Connection, bool]:
        async with self._connecting:
            if self._connection is not None and self._connection.usable:
                return self._connection, True
            loop = asyncio.get_running_loop()
            try:
                _, connection = await loop.create_unix_connection(_Connection, self._address.target)
            except OSError as error:
                raise self._unreachable(type(error).__name__) from error
            self._connection = connection
            return connection, False

    def _unreachable(self, why: str) -> AgentError:
        return AgentError(ErrorCode.ROLE_UNREACHABLE, f"{self._address}: {why}")


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._decoder = Decoder()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._next = 1
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = False

    @property
    def usable(self) -> bool:
        """Whether another call can be sent."""
        return not self._closed and not self._transport.is_closing() and self._next <= LAST_STREAM

    async def call(self, service: str, method: str, payload: bytes, deadline: Deadline) -> bytes:
        """Send one call and wait for its answer.

        Raises:
            ConnectionError: the connection closed before the answer.
            StatusError: an error status.
            AgentError: PAYLOAD_TOO_LARGE, ROLE_UNREACHABLE.
        """
        while not self._writable.is_set():
            await self._writable.wait()
        if not self.usable:
            raise ConnectionError
        stream, self._next = self._next, self._next + 2
        try:
            # The peer is told a little less: it can say what used the time, if its answer still gets here.
            left = max(0.0, deadline.remaining() - deadline.grace(_AHEAD))
            frame = encode_request(stream, Request(service, method, payload, left))
        except EnvelopeError as error:
            raise AgentError(ErrorCode.PAYLOAD_TOO_LARGE, f"{method}: {error}") from None
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = answer
        self._transport.write(frame)
        try:
            body = await answer
        finally:
            # From here on an answer to this stream is late, and ignored.
            self._waiting.pop(stream, None)
            if self._next > LAST_STREAM and not self._waiting:
                self._transport.close()
        try:
            return parse_response(body)
        except EnvelopeError as error:
            raise AgentError(ErrorCode.ROLE_UNREACHABLE, f"{service}: {error}") from None

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._closed = True
        self._writable.set()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError())

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        for event in self._decoder.feed(data):
            self._event(event)

    def _event(self, event: Event) -> None:
        answer = self._waiting.get(event.stream)
        if answer is None or answer.done() or event.kind != FrameType.RESPONSE:
            return
        if isinstance(event, Oversized):
            text = f"the answer is larger than {limits.TTRPC_MAX_BODY} bytes"
            answer.set_exception(StatusError(RpcCode.RESOURCE_EXHAUSTED, text))
        else:
            answer.set_result(event.body)
