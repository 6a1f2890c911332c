"""HTTP/1.1 on an already bound socket: aiohttp below its router, which would decode the path first."""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import TYPE_CHECKING, cast

from agent.config import limits
from agent.errors import ErrorCode
from agent.http import aiohttp, server
from agent.observe.redact import locations
from agent.serve.rest.answers import Answer, RestError
from agent.serve.rest.app import Incoming
from agent.serve.rest.guard import peer_of

if TYPE_CHECKING:
    import socket

    from agent.serve.rest.app import App

_log = logging.getLogger(__name__)

_NOT_FRAMED = (
    server.RequestPayloadError,
    aiohttp.ClientPayloadError,
    aiohttp.http_exceptions.HttpProcessingError,
)


class Running:
    """A REST role being served."""

    def __init__(self, listener: asyncio.Server, connections: server.Server) -> None:
        self._listener = listener
        self._connections = connections

    async def cleanup(self) -> None:
        """Stop accepting, let requests finish, and end all within ``limits.STOP_GRACE`` seconds."""
        self._listener.close()
        await asyncio.sleep(0)  # a connection accepted just now gets its protocol first
        self._connections.pre_shutdown()
        # aiohttp spends this time twice: on the request, then on the task around it.
        await self._connections.shutdown(limits.STOP_GRACE / 2)


async def serve(app: App, sock: socket.socket) -> Running:
    """Serve an app on a listening TCP or unix socket, which is closed with the result.

    A client that goes away cancels its request.
    """
    loop = asyncio.get_running_loop()

    async def handle(request: server.BaseRequest) -> server.StreamResponse:
        return _response(await app.answer(_incoming(request)))

    connections = server.Server(handle, handler_cancellation=True)
    most = _most_connections()
    listener = await loop.create_server(
        lambda: _Connection(app, connections, loop, most), sock=sock, backlog=limits.REST_BACKLOG
    )
    return Running(listener, connections)


def _most_connections() -> int:
    # T-REST-19: the other roles and the TEE's devices need descriptors too.
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.REST_MAX_WAITING + limits.REST_SPARE_CONNECTIONS
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // 2))


class _Connection(server.RequestHandler):
    """aiohttp's connection with our limits and our error bodies."""

    __slots__ = ("_app", "_most", "_server", "peer")

    def __init__(self, app: App, holder: server.Server, loop: asyncio.AbstractEventLoop, most: int) -> None:
        super().__init__(
            holder,
            loop=loop,
            keepalive_timeout=limits.REST_KEEP_ALIVE,
            lingering_time=limits.REST_LINGER,
            access_log=None,  # type: ignore[arg-type]  # aiohttp tests for None
            max_line_size=limits.REST_MAX_TARGET,
            auto_decompress=False,  # T-REST-20: a compressed body could be any size
        )
        self._app = app
        self._server = holder
        self._most = most
        self.peer = peer_of(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.peer = peer_of(transport)  # once: the kernel's word on a connection does not change
        if len(self._server.connections) > self._most:
            self.force_close()

    def handle_error(
        self,
        request: server.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # holds input
    ) -> server.StreamResponse:
        """Answer what the parser refused, or a defect. aiohttp's own text and log line repeat the input."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        return _response(self._app.reject(self.peer, _refusal(status, exc)))


def _refusal(status: int, exc: BaseException | None) -> RestError:
    kind = type(exc).__name__
    if exc is None or status >= 500:
        where = locations(exc) if exc is not None else ""
        _log.error(
            "request failed: defect in the agent", extra={"api": "rest", "error": kind, "where": where}
        )
        return RestError(ErrorCode.INTERNAL, kind)
    if isinstance(exc, aiohttp.http_exceptions.LineTooLong):
        return RestError(ErrorCode.PAYLOAD_TOO_LARGE, "request line or header field")
    return RestError(ErrorCode.INVALID_REQUEST, f"not an HTTP request: {kind}")


def _incoming(request: server.BaseRequest) -> Incoming:
    headers: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        headers.setdefault(name.lower(), []).append(value)
    return Incoming(
        method=request.method,
        target=request.raw_path,
        version=(request.version.major, request.version.minor),
        headers=headers,
        peer=cast("_Connection", request.protocol).peer,
        body=lambda limit: _read_body(request, limit),
    )


async def _read_body(request: server.BaseRequest, limit: int) -> bytes:
    # T-REST-21: bounded by what is announced and by what arrives.
    if (request.content_length or 0) > limit:
        raise RestError(ErrorCode.PAYLOAD_TOO_LARGE, "request body")
    if request.headers.get("Expect", "").lower() == "100-continue" and request.can_read_body:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    body = bytearray()
    try:
        while chunk := await request.content.readany():
            body += chunk
            if len(body) > limit:
                raise RestError(ErrorCode.PAYLOAD_TOO_LARGE, "request body")
    except (
        server.RequestPayloadError,
        aiohttp.ClientPayloadError,
        aiohttp.http_exceptions.HttpProcessingError,
    ):
        raise RestError(ErrorCode.INVALID_REQUEST, "the request body is not framed as announced") from None
    return bytes(body)


def _response(answer: Answer) -> server.Response:
    headers = (("Content-Type", answer.content_type), *answer.headers)
    response = server.Response(status=answer.status, body=answer.body, headers=headers)
    if answer.close:
        response.force_close()
    return response
