"""The broker's three requests over HTTP: within deadlines, at one or several endpoints.

Endpoints, headers and the cookie: kbs_protocol.md 1.1, 1.5, 1.10, 3.1 and 3.2.

Who tries again, so that no two loops multiply:

* ``auth`` asks each endpoint once, without pauses. The session begins whole handshakes again, with pauses.
* ``attest`` is sent once, to the endpoint that made the session.
* ``get`` is the only loop for resources, with pauses, as long as :mod:`agent.kbs.outage` says or until its
  deadline; within one round it asks each endpoint once. ``agent.kbs.resources`` adds a fresh attestation
  after a refused token, and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from msgspec.structs import replace

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.http.client.exchange import REDIRECTS
from agent.kbs import choice
from agent.kbs.choice import Credential, HeadRefusedError, asked_for, pause_within
from agent.kbs.credential import SessionRef
from agent.kbs.endpoints import ELSEWHERE, Endpoint, Endpoints
from agent.kbs.headers import Cookies, same_resource, session_cookie, session_life
from agent.kbs.outage import Outage, place
from agent.kbs.pauses import Pause, Pauses
from agent.kbs.problems import classify, retry_after
from agent.kbs.progress import Phase, background, begin
from agent.kbs.retry import Trouble
from agent.kbs.skew import explain
from agent.kbs.transport import Answer, Call
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agent.clock import Clock, Deadline
    from agent.config.model import Kbs
    from agent.config.uri import ResourceUri
    from agent.http.resolver import Lookup
    from agent.kbs.progress import Progress
    from agent.kbs.skew import ClockSkew
    from agent.kbs.token import KbsToken
    from agent.observe.metrics import Metrics

_CHANCE: Final = secrets.SystemRandom().random


T = TypeVar("T")


class Turn(msgspec.Struct, frozen=True):
    """One endpoint's turn: until when it may take, and for how many seconds it may take to connect."""

    endpoint: Endpoint
    deadline: Deadline
    connect: float


class Request(msgspec.Struct, frozen=True):
    """What one exchange is about.

    Attributes:
        call: to send; cookies are added.
        cookies: of the exchange.
        token_size: bytes of the token in its head.
        name: digest of the resource; None for a handshake.
    """

    call: Call
    cookies: Cookies
    token_size: int = 0
    name: bytes | None = None


class OutOfTimeError(AgentError):
    """The time of an exchange was up; its code says where that went."""


class KbsClient:
    """HTTP client of one broker. Opens nothing before the first request.

    Args:
        settings: of the broker, with all its endpoints.
        clock: for deadlines, sessions and circuit breakers.
        metrics: of the daemon.
        skew: told the time of answers that came over TLS.
        sleep: pauses between tries; injected in tests.
        chance: 0 to 1, spreads the pauses; injected in tests.
        resolver: for the endpoints' names; injected in tests.
    """

    def __init__(
        self,
        settings: Kbs,
        clock: Clock,
        metrics: Metrics,
        *,
        skew: ClockSkew | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = _CHANCE,
        resolver: Lookup | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._skew = skew
        self._chance = chance
        self._endpoints = Endpoints(settings, clock, chance, resolver, skew, shown=metrics.certificate)
        # Shared with the session that attests through this client.
        self.trouble = Trouble()
        self._unheard = Trouble()  # of work that nobody waits for: callers do not inherit its long pauses
        self.outage = Outage(clock, settings.retry_for)
        self.pauses = Pauses(clock, sleep, chance)

    async def auth(self, body: bytes, deadline: Deadline) -> tuple[bytes, SessionRef]:
        """``POST /auth``, at the first endpoint in order of health that answers.

        Args:
            body: the Request, JSON.
            deadline: when the caller stops waiting.

        Returns:
            The challenge as received (at most ``limits.KBS_MAX_CHALLENGE`` bytes) and the session.

        Raises:
            AgentError: KBS_NOT_CONFIGURED, CONFIG_INVALID, KBS_TLS_REQUIRED; KBS_DNS_FAILED, KBS_TLS_FAILED,
                CLOCK_SKEW, KBS_UNREACHABLE, KBS_REDIRECT_REFUSED, KBS_RESPONSE_TOO_LARGE, KBS_BAD_RESPONSE;
                KBS_TIMEOUT, KBS_TLS_TIMEOUT and, for ``attest``, APPRAISAL_TIMEOUT when the time is up there;
                or what :func:`agent.kbs.problems.classify` says. The same for the others.
        """

        async def ask(turn: Turn) -> tuple[bytes, SessionRef]:
            sent = self._clock.boot()
            call = Call("auth", "POST", turn.endpoint.url("auth"), limits.KBS_MAX_CHALLENGE, body=body)
            cookies = Cookies()
            answer = await self._exchange(turn, Request(call, cookies))
            cookie = Secret(session_cookie(answer.cookies, answer.date).encode())
            until = sent + session_life(answer.cookies, answer.date)
            return answer.body, SessionRef(cookie, turn.endpoint.base, until, cookies.jar)

        return await self._round(self._endpoints.for_handshake(), ask, deadline)

    async def attest(self, body: bytes, session: SessionRef, deadline: Deadline) -> bytes:
        """``POST /attest`` in ``session``, where that was made; never sent twice (kbs_protocol.md 11.1).

        A failure that another endpoint may not have makes the next ``auth`` go there.

        Returns:
            The token reply as received, at most ``limits.KBS_MAX_TOKEN`` bytes.
        """
        endpoint = self._endpoints.at(session.endpoint)
        if endpoint is None:
            raise AgentError(ErrorCode.INTERNAL, "a session of another broker")
        url = endpoint.url("attest")
        call = Call("attest", "POST", url, limits.KBS_MAX_TOKEN, body=body, repeatable=False)
        turn = Turn(endpoint, deadline, self._settings.connect_timeout)
        try:
            answer = await self._exchange(turn, Request(call, Cookies(session)))
        except AgentError as error:
            if error.code in ELSEWHERE:
                self._endpoints.handshake_failed(endpoint)
            raise explain(error, self._skew) from None
        self._endpoints.handshake_done(endpoint)
        self._metrics.token_bytes(len(answer.body))
        return answer.body

    async def get(self, uri: ResourceUri, token: KbsToken, deadline: Deadline) -> tuple[str, bytes]:
        """``GET`` a resource; path and query leave exactly as in ``uri``.

        A failure that may pass is tried again until ``deadline`` (without one: ``limits.RPC_DEADLINE``), and
        then raised as it was. The token goes as a bearer, or its session's cookie for it
        (:mod:`agent.kbs.choice`).

        Returns:
            The media type in lower case without parameters, empty when the broker names none, and the body
            as received (at most ``limits.KBS_MAX_RESOURCE`` bytes).
        """
        if math.isinf(deadline.remaining()):
            deadline = deadline.within(limits.RPC_DEADLINE)
        home = "" if token.session is None else token.session.endpoint

        async def ask(turn: Turn) -> Answer:
            return await self._fetch(turn, uri, token)

        patience, pauses = self.outage.begin("resource"), Pause()
        trouble = self._unheard if background() else self.trouble
        failed = 0
        heard: AgentError | None = None
        while True:
            given = deadline.remaining()
            try:
                answer = await self._round(self._endpoints.for_resource(home), ask, deadline)
            except AgentError as error:
                failed += 1
                # Cut off before it could learn anything: what the try before it saw is the reason.
                cut = heard is not None and given < limits.BREAKER_PATIENCE and deadline.remaining() <= 0
                heard = heard if cut and heard is not None else error
                left = min(patience.left(heard), deadline.remaining())
                pause = pause_within(trouble.failed(failed), heard, self._chance, left)
                if pause is None:
                    if not background():
                        patience.gave_up("resource", heard, own=deadline.remaining() > 0)
                    raise heard from None
            else:
                return answer.media_type, answer.body
            self._metrics.kbs_retry("resource")
            pauses.step = place("resource", heard.code)
            pauses.begin(self._clock.boot(), pause, asked_for(heard))
            await self.pauses.rest(pauses)

    async def close(self) -> None:
        """Drop all connections; what is under way fails. Safe to call twice."""
        for endpoint in self._endpoints.all:
            await endpoint.transport.close()

    # --- several endpoints ------------------------------------------------------------------------
    async def _round(
        self, order: Sequence[Endpoint], ask: Callable[[Turn], Awaitable[T]], deadline: Deadline
    ) -> T:
        """The first answer. Of failures, one that may pass is raised: another round can help then."""
        heard: AgentError | None = None
        own, short = self._settings.connect_timeout, limits.KBS_CONNECT_FIRST
        for left, endpoint in zip(range(len(order), 0, -1), order, strict=True):
            if left == 1:
                turn = Turn(endpoint, deadline, own)
            else:  # those that are still to be asked need their share of the time
                turn = Turn(endpoint, deadline.within(deadline.remaining() / left), min(own, short))
            try:
                return await ask(turn)
            except AgentError as error:
                if error.code not in ELSEWHERE:
                    raise
                if heard is None or (error.code.meaning.retry and not heard.code.meaning.retry):
                    heard = error
            if deadline.remaining() <= 0:
                break
        if heard is None:
            raise AssertionError("there is at least one endpoint")
        raise explain(heard, self._skew) from None

    # --- bearer or cookie -------------------------------------------------------------------------
    async def _fetch(self, turn: Turn, uri: ResourceUri, token: KbsToken) -> Answer:
        """One endpoint's answer. Each credential is sent once at most."""
        endpoint, size, session = turn.endpoint, len(token.jwt), token.session
        limit = min(self._settings.token_header_limit, endpoint.head_limit)
        if choice.choose(size, limit, usable=self._usable(endpoint, session)) is Credential.COOKIE:
            try:
                return await self._ask(turn, uri, Credential.COOKIE, token)
            except AgentError as error:
                if not choice.session_gone(error):
                    raise
            endpoint.forget(session)
        before = endpoint.head_limit
        try:
            return await self._ask(turn, uri, Credential.BEARER, token)
        except HeadRefusedError as error:
            endpoint.head_limit = min(before, size - 1)
            if not self._usable(endpoint, session):
                # A new session stands for the guest by a short cookie: worth an attestation, unless it was
                # a single reset, which may have had another reason.
                if session is None or (not error.answered and before >= size):
                    raise
                raise AgentError(
                    ErrorCode.TOKEN_REJECTED, f"too large, and its session is gone: {error}"
                ) from None
        try:
            return await self._ask(turn, uri, Credential.COOKIE, token)
        except AgentError as error:
            if choice.session_gone(error):
                endpoint.forget(session)
            raise

    def _usable(self, endpoint: Endpoint, session: SessionRef | None) -> bool:
        return choice.usable(session, endpoint.base, self._clock.boot()) and not endpoint.forgot(session)

    async def _ask(self, turn: Turn, uri: ResourceUri, credential: Credential, token: KbsToken) -> Answer:
        size, headers = 0, {}
        cookies = Cookies(token.session) if credential is Credential.COOKIE else Cookies()
        if cookies.session is None:
            headers, size = {"Authorization": f"Bearer {token.jwt.reveal().decode('ascii')}"}, len(token.jwt)
        self._metrics.kbs_credential(credential.value)
        url = turn.endpoint.url(uri.request_target)
        call = Call("resource", "GET", url, limits.KBS_MAX_RESOURCE, headers)
        # By the path alone: a plugin that is slow is so for every query.
        name = hashlib.sha256("\0".join((uri.plugin, *uri.names)).encode()).digest()
        return await self._exchange(turn, Request(call, cookies, size, name))

    # --- one exchange -----------------------------------------------------------------------------
    async def _exchange(self, turn: Turn, request: Request) -> Answer:
        endpoint, began = turn.endpoint, self._clock.boot()
        result = ErrorCode.CANCELLED.name
        probe = endpoint.breaker.begin()
        try:
            answer = await self._timed(turn, request)
        except AgentError as error:
            result = error.code.name
            took = self._clock.boot() - began
            endpoint.failed(error, took, cut=isinstance(error, OutOfTimeError))
            if error.code in ELSEWHERE:
                self.outage.failed(request.call.endpoint, took)
            elif error.problem is not None:  # a refusal is an answer
                self._answered(request.call.endpoint)
            raise
        else:
            result = "ok"
            endpoint.breaker.succeeded()
            self.trouble.eased()
            self._unheard.eased()
            self._answered(request.call.endpoint)
            return answer
        finally:
            if probe:
                endpoint.breaker.end()
            self._metrics.kbs_request(request.call.endpoint, result)
            if len(self._endpoints.all) > 1:
                self._metrics.endpoint_request(endpoint.index, result, endpoint.breaker.health())

    def _answered(self, step: str) -> None:
        self.outage.answered(step)
        self.pauses.answered(step)

    def _longest(self, turn: Turn, step: str) -> float:
        """Seconds that one exchange may take, whatever its caller has."""
        # An endpoint that has not broken off an attestation lately is not to be hurried for one that has.
        fresh = step == "attest" and turn.endpoint.handshakes_from <= self._clock.boot()
        limit = self._settings.request_timeout
        return limit if fresh else min(limit, self.outage.limit(step))

    async def _timed(self, turn: Turn, request: Request) -> Answer:
        """The caller's deadline covers the wait for a slot; our own limit is for the exchange alone.

        A resource that takes long makes room when others wait, and is asked for again, once.
        """
        progress, endpoint = begin(), request.call.endpoint
        request = replace(request, call=replace(request.call, connect=turn.connect))
        try:
            async with asyncio.timeout(None) as timer:
                while True:
                    _limit(timer, turn.deadline.remaining())
                    async with turn.endpoint.slots.hold(request.name, progress):
                        _limit(timer, min(turn.deadline.remaining(), self._longest(turn, endpoint)))
                        return await self._follow(turn.endpoint, request, progress)
        except TimeoutError:
            code = progress.phase.timeout(endpoint)
            if progress.phase is Phase.QUEUE:  # those that hold the connections know more
                code = turn.endpoint.last or code
            detail = f"time ran out while {progress.phase.value} (/{endpoint})"
            known = self.outage.known(endpoint)
            if known is not None and known.silent:  # a short try; the request before waited longer
                code, detail = known.reason.code, f"{detail}; lately: {known.reason.detail}"
            raise OutOfTimeError(code, detail) from None

    async def _follow(self, endpoint: Endpoint, request: Request, progress: Progress) -> Answer:
        call, size = request.call, request.token_size
        try:
            answer = await self._send(endpoint, call, request.cookies, progress)
            if answer.status in REDIRECTS:
                # T-KBS-70: a token never goes to a scheme, host or port that the configuration does not name.
                target = same_resource(call.url, endpoint.base, answer.location)
                if call.method != "GET" or target is None:
                    detail = f"/{call.endpoint} answered {answer.status}"
                    raise AgentError(ErrorCode.KBS_REDIRECT_REFUSED, detail)
                answer = await self._send(endpoint, replace(call, url=target), request.cookies, progress)
        except AgentError as lost:
            if choice.head_refused(lost, None, connected=progress.connected, size=size):
                raise HeadRefusedError(lost, answered=False) from None
            raise
        if answer.status == 200:
            return answer
        asked = retry_after(answer.retry_after, answer.date, self._clock.wall())
        # A second redirect is refused there.
        error = classify(call.endpoint, answer.status, answer.body, retry_after=asked)
        if choice.head_refused(error, answer.status, connected=True, size=size):
            raise HeadRefusedError(error, answered=True)
        raise error

    async def _send(self, endpoint: Endpoint, call: Call, cookies: Cookies, progress: Progress) -> Answer:
        """One answer, asked for with the cookies that are due; what it sets counts, whatever its status."""
        sent = self._clock.boot()
        call = replace(call, headers={**call.headers, **cookies.header(call.url, sent)})
        answer = await endpoint.transport.send(call, progress)
        cookies.heard(call.url, answer.cookies, answer.date, sent)
        return answer


def _limit(timer: asyncio.Timeout, seconds: float) -> None:
    timer.reschedule(None if math.isinf(seconds) else asyncio.get_running_loop().time() + seconds)
