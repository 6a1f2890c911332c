"""A gRPC server for the handlers of ``agent/serve/ttrpc``: plaintext HTTP/2, unary calls, no reflection."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.errors import ErrorCode, RpcCode
from agent.http.budget import Budget
from agent.observe.redact import locations
from agent.serve.grpc.address import Listening, listen
from agent.serve.grpc.library import load
from agent.serve.sockets import SCHEME
from agent.serve.ttrpc.codec import StatusError
from agent.serve.ttrpc.server import Context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import ModuleType
    from typing import Protocol

    from agent.serve.ttrpc.server import Handler, Services

    class _Aio(Protocol):
        """What grpcio gives a handler besides the request (grpc.aio.ServicerContext)."""

        def peer(self) -> str: ...
        async def read(self) -> bytes: ...
        def time_remaining(self) -> float | None: ...
        async def abort(self, code: object, details: str) -> None: ...

    class _Server(Protocol):
        """grpc.aio.Server."""

        def add_generic_rpc_handlers(self, handlers: tuple[object, ...]) -> None: ...
        def add_insecure_port(self, address: str) -> int: ...
        async def start(self) -> None: ...
        async def stop(self, grace: float | None) -> None: ...

    Adapted = Callable[[object, _Aio], Awaitable[bytes]]

_SOON: Final = 0.001
"""Seconds left for a call whose deadline passed on the way; 0 would mean that it has none."""

_IDENTITY_ONLY: Final = 1

OPTIONS: Final = (
    ("grpc.max_receive_message_length", limits.GRPC_MAX_REQUEST),
    ("grpc.max_send_message_length", limits.TTRPC_MAX_BODY),
    ("grpc.max_concurrent_streams", limits.GRPC_STREAMS),
    # T-IMGKEY-60: what it takes before a handler reads; it would otherwise grow with the connection's speed.
    ("grpc.http2.lookahead_bytes", limits.GRPC_WINDOW),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_metadata_size", limits.GRPC_HEAD),
    ("grpc.absolute_max_metadata_size", limits.GRPC_HEAD),
    # T-IMGKEY-62: the one way to end a call whose answer is not read. Clients connect again by themselves.
    ("grpc.max_connection_age_ms", limits.GRPC_CONNECTION_AGE * 1000),
    ("grpc.max_connection_age_grace_ms", limits.GRPC_CONNECTION_GRACE * 1000),
    # T-IMGKEY-34: a compressed request of 4 MiB can be 4 GiB; none of our clients compresses.
    ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
    # T-IMGKEY-50: connections of one container would otherwise take all file descriptors of the agent.
    ("grpc.max_allowed_incoming_connections", limits.GRPC_CONNECTIONS),
    # T-IMGKEY-35: otherwise another process could bind the same port and get a share of the requests.
    ("grpc.so_reuseport", 0),
)

_log = logging.getLogger(__name__)


class GrpcServer:
    """Serves ``services`` (service name to method name to handler), as :class:`TtrpcServer` does.

    Args:
        services: what is offered.
        budget: the account of all that callers make this process hold; by default one of its own.
    """

    def __init__(self, services: Services, budget: Budget | None = None) -> None:
        self._services = services
        self._budget = budget or Budget(limits.BUDGET, limits.BUDGET_RESERVE)
        self._unread = Budget(limits.GRPC_UNREAD, 0)
        self._turns = asyncio.Semaphore(limits.GRPC_LARGE)
        self._server: _Server | None = None
        self._listening: Listening | None = None

    async def start(self, address: str) -> str:
        """Listen; returns the address with the port that was really bound.

        Args:
            address: loopback ``IP:port``, ``unix:///path`` or ``unix://@abstract``.

        Raises:
            AgentError: CONFIG_INVALID, also when grpcio is not installed.
        """
        grpc, aio = load()
        server: _Server = aio.server(options=OPTIONS, maximum_concurrent_rpcs=limits.GRPC_CALLS)
        reserved = address.startswith(SCHEME)
        handlers = tuple(
            grpc.method_handlers_generic_handler(
                service,
                {
                    # A stream of requests on our side only, so that it is we who read the one there is.
                    # Without a deserializer it is bytes.
                    name: grpc.stream_unary_rpc_method_handler(
                        self._adapt(grpc, name, handler, reserved=reserved)
                    )
                    for name, handler in methods.items()
                },
            )
            for service, methods in self._services.items()
        )
        server.add_generic_rpc_handlers(handlers)
        try:
            self._listening = listen(address, server.add_insecure_port)
        except BaseException:
            await server.stop(None)
            raise
        # T-IMGKEY-61: what grpcio holds of requests cannot be counted, so others may hold that much less.
        self._budget.set_aside(limits.GRPC_SHARE)
        self._server = server
        await server.start()
        return self._listening.shown

    async def stop(self, grace: float = limits.STOP_GRACE) -> None:
        """Accept nothing new, let calls under way finish for ``grace`` seconds, then cut."""
        server, self._server = self._server, None
        if self._listening is not None:
            self._listening.unlink()
        if server is not None:
            await server.stop(grace)
            self._budget.set_aside(-limits.GRPC_SHARE)

    def _adapt(self, grpc: ModuleType, method: str, handler: Handler, *, reserved: bool) -> Adapted:
        codes = {status.value[0]: status for status in grpc.StatusCode}

        async def answer(_: object, aio: _Aio) -> bytes:
            try:
                payload = await self._handled(method, handler, aio)
            except StatusError as error:
                failed = error
            else:
                if self._keep(len(payload), reserved=reserved):
                    return payload
                failed = StatusError(
                    RpcCode.RESOURCE_EXHAUSTED, "there is no room for so large an answer now"
                )
            await aio.abort(codes[failed.code], failed.message)
            raise AssertionError("abort raises")

        return answer

    def _keep(self, size: int, *, reserved: bool) -> bool:
        """Count an answer until its call ends; False: there is no room for it."""
        call, answer = asyncio.current_task(), _Answer(reserved=reserved)
        assert call is not None  # noqa: S101 - grpcio runs each call in a task of its own

        def leave(_: object) -> None:
            self._unread.leave(answer)
            self._budget.leave(answer)

        call.add_done_callback(leave)
        return self._unread.hold(answer, size) and self._budget.hold(answer, size)

    async def _handled(self, method: str, handler: Handler, aio: _Aio) -> bytes:
        async with AsyncExitStack() as turn:
            # T-IMGKEY-64: who waits for a turn holds no more than its stream's window.
            await turn.enter_async_context(self._turns)
            payload = await _read(aio)
            if len(payload) <= limits.GRPC_SMALL:
                await turn.aclose()
            left = aio.time_remaining()
            # grpcio does not say who is at the other end of a Unix socket: its file's mode decides that.
            context = Context(aio.peer().rstrip(":"), None if left is None else max(left, _SOON))
            try:
                return await handler(payload, context)
            except StatusError:
                raise
            except Exception as error:
                # T-IMGKEY-36: grpcio would send the exception's text, which may hold the value it choked on.
                extra = {"verb": method, "error": type(error).__name__, "where": locations(error)}
                _log.error("request failed: defect in the agent", extra=extra)
                raise StatusError(RpcCode.INTERNAL, ErrorCode.INTERNAL.meaning.message) from error


async def _read(aio: _Aio) -> bytes:
    """The one message of a call."""
    try:
        # T-IMGKEY-63: a request that is begun and does not end would keep its turn.
        async with asyncio.timeout(limits.GRPC_PATIENCE):
            payload = await aio.read()
    except TimeoutError:
        raise StatusError(RpcCode.RESOURCE_EXHAUSTED, "the request did not go on") from None
    if not isinstance(payload, bytes):  # grpcio's mark for the end
        raise StatusError(RpcCode.INVALID_ARGUMENT, "a call without a message")
    return payload


class _Answer:
    """An answer that grpcio has and its caller may not have read, as the account sees it.

    Nothing in grpcio's Python ends a call whose answer is on its way, so it cannot be given up for another.
    """

    stalled = False

    def __init__(self, *, reserved: bool) -> None:
        self.reserved = reserved

    def evict(self) -> None:
        """Not called, as it is never stalled."""
