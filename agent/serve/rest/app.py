"""The REST API as a function from a request to an answer; sockets and HTTP framing are in ``listen``."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from msgspec.structs import replace

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.http.server.exchange import Answer
from agent.observe.metrics import CONTENT_TYPE
from agent.serve.rest import answers, guard, query, routes
from agent.serve.rest.answers import RestError
from agent.serve.rest.headers import no_cache, preferred_wait, wants_json
from agent.serve.rest.routes import Operation
from agent.serve.rest.shares import Bounds, Shares, share_key
from agent.serve.rest.target import parse_target
from agent.serve.rest.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
    from typing import Any

    from agent.config.model import Gateway
    from agent.observe.health import Health
    from agent.observe.metrics import Metrics
    from agent.roles import Fetched
    from agent.serve.access import Call
    from agent.serve.front import Front
    from agent.serve.rest.guard import Peer
    from agent.serve.rest.routes import Match
    from agent.serve.rest.target import Target

T = TypeVar("T")

_log = logging.getLogger(__name__)

_AAEL_TEXT: Final = (
    "Illegal AAEL eventry format: expected a JSON object with the strings domain, operation and content"
)
_VERSIONS: Final = frozenset({(1, 0), (1, 1)})
_COMMON: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Server", "coco-agent"),
)


class Incoming(msgspec.Struct, frozen=True):
    """One request as it came.

    Attributes:
        method: case counts.
        target: raw request target; bytes that are not UTF-8 as surrogate escapes.
        version: HTTP version as major, minor.
        headers: every value by lower-case name, in order.
        peer: the connection's other end.
        body: reads a body of at most so many bytes; raises RestError PAYLOAD_TOO_LARGE or INVALID_REQUEST.
    """

    method: str
    target: str
    version: tuple[int, int]
    headers: Mapping[str, Sequence[str]]
    peer: Peer
    body: Callable[[int], Awaitable[bytes]]


class _AaelEvent(msgspec.Struct, frozen=True):
    domain: str
    operation: str
    content: str
    once: bool = False


_AAEL_DECODER: Final = msgspec.json.Decoder(_AaelEvent)
_SEALED_DECODER: Final = msgspec.json.Decoder(list[str])


class _Work(msgspec.Struct, frozen=True):
    """What an operation gets."""

    call: Call
    incoming: Incoming
    target: Target
    match: Match


class App:
    """The REST role; built by :func:`build_app`, served by :func:`agent.serve.rest.listen.serve`."""

    def __init__(
        self, front: Front, settings: Gateway, metrics: Metrics | None, health: Health, version: str
    ) -> None:
        self._front = front
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._version = version
        self._turn = Turn()
        self.allow(limits.REST_MAX_WAITING)
        self._at_once: Mapping[Operation, Callable[[_Work], Answer | None]] = {
            Operation.LIVE: self._live,
            Operation.READY: self._ready,
            Operation.METRICS: self._render_metrics,
            Operation.RESOURCE: self._kept,
        }
        self._operations: Mapping[Operation, Callable[[_Work], Awaitable[Answer]]] = {
            Operation.INFO: self._info,
            Operation.TOKEN: self._token,
            Operation.EVIDENCE: self._evidence,
            Operation.ADDITIONAL_EVIDENCE: self._additional_evidence,
            Operation.EXTEND: self._extend,
            Operation.RESOURCE: self._resource,
            Operation.UNSEAL: self._unseal,
        }

    def allow(self, slots: int) -> None:
        """Let so many requests wait for a role at a time, instead of ``limits.REST_MAX_WAITING``."""
        share = max(1, int(slots * limits.REST_SHARE))
        bounds = Bounds(slots, share, min(slots, limits.REST_NAMES))
        self._shares = Shares(bounds, time.monotonic)

    def begin(self, incoming: Incoming) -> Answer | Coroutine[Any, Any, Answer]:
        """Guard and route one request, and answer it unless a role has to be waited for.

        Only defects, and cancellation of what is returned, leave as exceptions.
        """
        call = self._front.call("rest", incoming.peer.label, self._seconds(incoming))
        try:
            self._guard(incoming)
            target = parse_target(incoming.target)
            guard.check_authority(target.authority, self._settings.extra_hosts)
            match = routes.find(target.path, incoming.method, self._settings.features)
            work = _Work(call, incoming, target, match)
            at_once = self._at_once.get(match.route.operation)
            answer = None if at_once is None else at_once(work)
        except AgentError as error:
            return self._failed(call, incoming, error)
        return self._run(work) if answer is None else _finish(answer, call)

    async def answer(self, incoming: Incoming) -> Answer:
        """As :meth:`begin`, and wait."""
        begun = self.begin(incoming)
        return begun if isinstance(begun, Answer) else await begun

    def reject(self, peer: Peer, error: RestError) -> Answer:
        """The answer to something that is not an HTTP request; ends the connection."""
        call = self._front.call("rest", peer.label, self._settings.deadline)
        if not peer.local:
            error = RestError(ErrorCode.PEER_REFUSED, "the peer is not local")
        self._note(call, error)
        return _finish(replace(answers.failure(error, call.request_id, json=False), close=True), call)

    def _failed(self, call: Call, incoming: Incoming, error: AgentError) -> Answer:
        self._note(call, error)
        answer = answers.failure(
            error,
            call.request_id,
            json=wants_json(incoming.headers.get("accept", ())),
            compat_status=self._settings.compat_status,
        )
        return _finish(answer, call)

    def _seconds(self, incoming: Incoming) -> float:
        wait = preferred_wait(incoming.headers.get("prefer", ()))
        return self._settings.deadline if wait is None else min(wait, self._settings.deadline)

    def _guard(self, incoming: Incoming) -> None:
        headers, extra_hosts = incoming.headers, self._settings.extra_hosts
        guard.check_peer(incoming.peer)
        if incoming.version not in _VERSIONS:
            raise RestError(ErrorCode.INVALID_REQUEST, "the request is neither HTTP/1.1 nor HTTP/1.0")
        guard.check_host(headers.get("host", ()), extra_hosts)
        guard.check_direct(headers)
        guard.check_browser(headers, extra_hosts)

    async def _run(self, work: _Work) -> Answer:
        operation = work.match.route.operation
        name = work.match.rest if operation is Operation.RESOURCE else None
        try:
            async with asyncio.timeout(None) as turn:

                def make_room() -> None:
                    turn.reschedule(0.0)

                with self._shares.slot(share_key(work.incoming.peer), name, make_room):
                    answer = await self._operations[operation](work)
        except AgentError as error:
            return self._failed(work.call, work.incoming, error)
        except TimeoutError:
            if not turn.expired():
                raise
            crowded = RestError(ErrorCode.TOO_MANY_REQUESTS, "it waited longest, and others want its slot")
            return self._failed(work.call, work.incoming, crowded)
        return _finish(answer, work.call)

    def _note(self, call: Call, error: AgentError) -> None:
        """Count and log what never reached the front, which does so for the rest."""
        if not isinstance(error, RestError):
            return
        if self._metrics is not None:
            self._metrics.request("rest", "refused", error.code.name)
        extra = {
            "request_id": call.request_id,
            "api": "rest",
            "peer": call.caller.peer,
            "code": error.code.name,
            "detail": error.detail,
        }
        _log.info("request refused", extra=extra)

    # --- operations -------------------------------------------------------------------------------
    async def _info(self, work: _Work) -> Answer:
        features = self._settings.features
        tee: str | None = None
        additional: tuple[str, ...] = ()
        if features in routes.ROOTS["/aa"].features:
            # Upstream drops the connection when one of these fails; the version is worth an answer.
            tee = await _or_else(self._front.tee_type(work.call), None)
            additional = await _or_else(self._front.additional_tees(work.call), ())
        return answers.info(self._version, tee, additional, features.value)

    def _live(self, _: _Work) -> Answer:
        report = self._health.live()
        return answers.health(ok=report.ok, reasons=report.reasons)

    def _ready(self, _: _Work) -> Answer:
        report = self._health.ready()
        return answers.health(ok=report.ok, reasons=report.reasons)

    def _render_metrics(self, _: _Work) -> Answer:
        if self._metrics is None:
            raise RestError(ErrorCode.UNKNOWN_ROUTE, "metrics are switched off")
        return Answer(200, self._metrics.render(), CONTENT_TYPE)

    async def _token(self, work: _Work) -> Answer:
        token_type = query.required(query.parse_query(work.target.query), "token_type")
        return Answer(200, (await self._front.token(work.call, token_type)).reveal())

    async def _evidence(self, work: _Work) -> Answer:
        data = query.runtime_data(query.parse_query(work.target.query))
        return Answer(200, await self._front.evidence(work.call, data))

    async def _additional_evidence(self, work: _Work) -> Answer:
        data = query.runtime_data(query.parse_query(work.target.query))
        return Answer(200, await self._front.additional_evidence(work.call, data))

    async def _extend(self, work: _Work) -> Answer:
        event = _aael_event(await _body(work, limits.REST_MAX_BODY))
        result = await self._front.extend(
            work.call, event.domain, event.operation, event.content, None, once=event.once
        )
        return answers.extended(result)

    async def _resource(self, work: _Work) -> Answer:
        uri, refresh = _resource_of(work)
        await self._turn.come(uri)
        return self._resource_answer(uri, await self._front.get_resource(work.call, uri, refresh=refresh))

    def _kept(self, work: _Work) -> Answer | None:
        uri, refresh = _resource_of(work)
        fetched = None if refresh or self._turn.spent(uri) else self._front.kept_resource(work.call, uri)
        return None if fetched is None else self._resource_answer(uri, fetched)

    def _resource_answer(self, uri: str, fetched: Fetched) -> Answer:
        self._turn.made(uri, len(fetched.secret))
        return answers.resource(fetched)

    async def _unseal(self, work: _Work) -> Answer:
        sealed = _sealed_secrets(await _body(work, limits.UNSEAL_MAX_BODY))
        return answers.unsealed(await self._front.unseal_all(work.call, sealed))


def _resource_of(work: _Work) -> tuple[str, bool]:
    """The URI, and whether the broker has to be asked."""
    # The query stays behind, as upstream: a resource's own query would need a wider grammar here.
    refresh = query.refresh(work.target.query) or no_cache(work.incoming.headers.get("cache-control", ()))
    return f"kbs://{work.match.rest}", refresh


async def _body(work: _Work, limit: int) -> bytes:
    async with work.call.deadline.limit("reading the request body"):
        return await work.incoming.body(limit)


async def _or_else(asked: Awaitable[T], default: T) -> T:
    try:
        return await asked
    except AgentError:  # logged and counted by the front
        return default


def _aael_event(body: bytes) -> _AaelEvent:
    try:
        return _AAEL_DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # Neither the parser's text nor the body: both can hold what the caller sent.
        raise RestError(
            ErrorCode.INVALID_REQUEST,
            "the body is not an event of domain, operation and content",
            text=_AAEL_TEXT,
            compat=True,
        ) from None


def _sealed_secrets(body: bytes) -> list[bytes]:
    try:
        texts = _SEALED_DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # As above.
        raise RestError(ErrorCode.INVALID_REQUEST, "the body is not a JSON array of strings") from None
    return [text.encode("utf-8", "surrogatepass") for text in texts]


def _finish(answer: Answer, call: Call) -> Answer:
    """Headers of every answer: nothing of it is cached, sniffed or, by ours, shared across origins."""
    return replace(answer, headers=(*answer.headers, *_COMMON, ("X-Request-Id", call.request_id)))


def build_app(
    front: Front, settings: Gateway, *, metrics: Metrics | None, health: Health, version: str
) -> App:
    """Build the REST role.

    Args:
        front: asked by every route.
        settings: features, extra Host names, deadline and status compatibility. ``bind`` is the caller's.
        metrics: served at ``/metrics``; None: there is no such route.
        health: served at ``/healthz`` and ``/readyz``.
        version: shown by ``/info``.
    """
    return App(front, settings, metrics, health, version)
