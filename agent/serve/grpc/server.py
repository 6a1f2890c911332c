"""A gRPC server for the handlers of ``agent/serve/ttrpc``: plaintext HTTP/2, unary calls, no reflection."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.errors import ErrorCode, RpcCode
from agent.observe.redact import locations
from agent.serve.grpc.address import Listening, listen
from agent.serve.grpc.library import load
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
        def time_remaining(self) -> float | None: ...
        async def abort(self, code: object, details: str) -> None: ...

    class _Server(Protocol):
        """grpc.aio.Server."""

        def add_generic_rpc_handlers(self, handlers: tuple[object, ...]) -> None: ...
        def add_insecure_port(self, address: str) -> int: ...
        async def start(self) -> None: ...
        async def stop(self, grace: float | None) -> None: ...

    Adapted = Callable[[bytes, _Aio], Awaitable[bytes]]

_SOON: Final = 0.001
"""Seconds left for a call whose deadline passed on the way; 0 would mean that it has none."""

_IDENTITY_ONLY: Final = 1

OPTIONS: Final = (
    # Both as ttrpc; each method has a smaller limit of its own.
    ("grpc.max_receive_message_length", limits.TTRPC_MAX_BODY),
    ("grpc.max_send_message_length", limits.TTRPC_MAX_BODY),
    ("grpc.max_concurrent_streams", limits.TTRPC_MAX_STREAMS),
    # T-IMGKEY-34: a compressed request of 4 MiB can be 4 GiB; none of our clients compresses.
    ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
    # T-IMGKEY-50: connections of one container would otherwise take all file descriptors of the agent.
    ("grpc.max_allowed_incoming_connections", limits.TTRPC_MAX_CONNECTIONS),
    # T-IMGKEY-35: otherwise another process could bind the same port and get a share of the requests.
    ("grpc.so_reuseport", 0),
)

_log = logging.getLogger(__name__)


class GrpcServer:
    """Serves ``services`` (service name to method name to handler), as :class:`TtrpcServer` does."""

    def __init__(self, services: Services) -> None:
        self._services = services
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
        server: _Server = aio.server(options=OPTIONS, maximum_concurrent_rpcs=limits.TTRPC_MAX_STREAMS)
        handlers = tuple(
            grpc.method_handlers_generic_handler(
                service,
                {
                    # Without a deserializer the handler gets the bytes.
                    name: grpc.unary_unary_rpc_method_handler(_adapt(grpc, name, handler))
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


def _adapt(grpc: ModuleType, method: str, handler: Handler) -> Adapted:
    codes = {status.value[0]: status for status in grpc.StatusCode}

    async def answer(payload: bytes, aio: _Aio) -> bytes:
        left = aio.time_remaining()
        # grpcio does not say who is at the other end of a Unix socket: its file's mode decides who can be.
        context = Context(aio.peer().rstrip(":"), None if left is None else max(left, _SOON))
        try:
            return await handler(payload, context)
        except StatusError as error:
            failed = error
        except Exception as error:  # noqa: BLE001 - recorded, and answered without its text
            # T-IMGKEY-36: grpcio would send the exception's text, which may hold the value it choked on.
            extra = {"verb": method, "error": type(error).__name__, "where": locations(error)}
            _log.error("request failed: defect in the agent", extra=extra)
            failed = StatusError(RpcCode.INTERNAL, ErrorCode.INTERNAL.meaning.message)
        await aio.abort(codes[failed.code], failed.message)
        raise AssertionError("abort raises")

    return answer
