"""The REST role on bound sockets: what :mod:`agent.http.server.server` needs to know of it."""

from __future__ import annotations

import logging
import resource
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.errors import ErrorCode
from agent.http.budget import Budget
from agent.http.messages import Bounds
from agent.http.relief import Relief
from agent.http.server.exchange import BodyError, Refusal
from agent.http.server.phase import Times
from agent.http.server.server import Server
from agent.observe.redact import locations
from agent.serve.rest.answers import RestError
from agent.serve.rest.app import Incoming
from agent.serve.rest.guard import peer_of
from agent.serve.rest.losses import Losses

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Coroutine
    from typing import Any

    from agent.http.messages import RequestHead
    from agent.http.server.exchange import Answer, Loss, ReadBody
    from agent.observe.metrics import Metrics
    from agent.serve.rest.app import App
    from agent.serve.rest.guard import Peer

_log = logging.getLogger(__name__)

BOUNDS: Final = Bounds(
    head=limits.REST_MAX_HEAD,
    start=limits.REST_MAX_TARGET + len("OPTIONS  HTTP/1.1\r"),
    fields=limits.REST_MAX_FIELDS,
    field=limits.REST_MAX_FIELD,
    framing=limits.REST_MAX_FRAMING,
)
TIMES: Final = Times(
    idle=limits.REST_KEEP_ALIVE,
    head=limits.REST_HEAD,
    body_grace=limits.REST_BODY_GRACE,
    body_rate=limits.REST_BODY_RATE,
    write_grace=limits.REST_WRITE_GRACE,
    write_rate=limits.REST_WRITE_RATE,
    linger=limits.REST_LINGER,
    place=limits.REST_PLACE,
    pace=limits.REST_PACE,
)
_CODES: Final = {
    Refusal.NOT_HTTP: ErrorCode.INVALID_REQUEST,
    Refusal.TOO_LARGE: ErrorCode.PAYLOAD_TOO_LARGE,
    Refusal.BODY_NOT_FRAMED: ErrorCode.INVALID_REQUEST,
    Refusal.BODY_TOO_LARGE: ErrorCode.PAYLOAD_TOO_LARGE,
    Refusal.TOO_SLOW: ErrorCode.DEADLINE_EXCEEDED,
    Refusal.NO_ROOM: ErrorCode.TOO_MANY_REQUESTS,
}


class Running:
    """A REST role being served."""

    def __init__(self, server: Server, losses: Losses) -> None:
        self._server = server
        self._losses = losses

    async def cleanup(self) -> None:
        """Stop accepting, let requests finish, and end all within ``limits.STOP_GRACE`` seconds."""
        await self._server.stop(limits.STOP_GRACE / 2)  # once for the requests, once for their end
        self._losses.flush()


async def serve(
    app: App,
    *socks: socket.socket,
    budget: Budget | None = None,
    relief: Relief | None = None,
    metrics: Metrics | None = None,
    times: Times = TIMES,
) -> Running:
    """Serve an app on listening TCP or unix sockets, which are closed with the result.

    A client that goes away cancels its request.

    Args:
        app: answers.
        socks: they share connections, bytes and request slots.
        budget: of the process; None for one of its own.
        relief: likewise.
        metrics: counts connections that were ended.
        times: time limits of each connection.
    """
    most = _most_connections()
    app.allow(max(1, min(limits.REST_MAX_WAITING, most - limits.REST_SPARE_CONNECTIONS)))
    account = Budget(limits.BUDGET, limits.BUDGET_RESERVE) if budget is None else budget
    losses = Losses(metrics)
    server = Server(_Rest(app, losses), BOUNDS, times, budget=account, relief=relief or Relief(), most=most)
    await server.start(*socks)
    return Running(server, losses)


def _most_connections() -> int:
    # T-REST-19: the other roles and the TEE's devices need descriptors too.
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.REST_MAX_WAITING + limits.REST_SPARE_CONNECTIONS
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // 2))


class _Rest:
    """The app, for the server."""

    def __init__(self, app: App, losses: Losses) -> None:
        self._app = app
        self._losses = losses

    def meet(self, transport: asyncio.Transport) -> _Side:
        return _Side(self._app, peer_of(transport))

    def lost(self, loss: Loss) -> None:
        self._losses.add(loss)


class _Side:
    """The app, for one connection."""

    __slots__ = ("_app", "_peer")

    def __init__(self, app: App, peer: Peer) -> None:
        self._app = app
        self._peer = peer  # asked once: the kernel's word on a connection does not change

    def answer(self, head: RequestHead, body: ReadBody) -> Answer | Coroutine[Any, Any, Answer]:
        async def read(limit: int) -> bytes:
            # T-REST-20: a compressed body could be any size, so it is taken as it comes.
            try:
                return await body(limit)
            except BodyError as error:
                raise _error(error.refusal) from None

        return self._app.begin(
            Incoming(head.method, head.target, head.version, head.headers, self._peer, read)
        )

    def refuse(self, refusal: Refusal) -> Answer:
        return self._app.reject(self._peer, _error(refusal))

    def broken(self, error: Exception) -> Answer:
        # T-LOG-1: the exception's text can hold what was being processed; only its place is kept.
        kind = type(error).__name__
        extra = {"api": "rest", "error": kind, "where": locations(error)}
        _log.error("request failed: defect in the agent", extra=extra)
        return self._app.reject(self._peer, RestError(ErrorCode.INTERNAL, kind))


def _error(refusal: Refusal) -> RestError:
    return RestError(_CODES[refusal], refusal.value)
