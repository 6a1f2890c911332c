"""One token and its key pair for the whole guest: attest once, remember, renew in time.

kbs_protocol.md 5.6 says what may be kept. Life is counted on the boot clock. No failure is kept: the next
caller tries again, once in an outage that others have waited for in vain (:mod:`agent.kbs.outage`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from functools import partial
from typing import TYPE_CHECKING, Final

from agent.clock import GRACE_SHARE, Deadline
from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.flight import SingleFlight
from agent.kbs.attempt import Attestation, Progress
from agent.kbs.choice import pause_within
from agent.kbs.outage import Outage, Patience
from agent.kbs.pauses import Pauses
from agent.kbs.progress import background, work_in_background
from agent.kbs.retry import Trouble
from agent.kbs.token import Held, KbsToken, refresh_due, wipe_when_dropped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.clock import Clock
    from agent.config.model import KeyAlgorithm
    from agent.kbs.attempt import Broker
    from agent.observe.metrics import Metrics
    from agent.tee.base import EvidenceSource

_log = logging.getLogger(__name__)

_KEY: Final = "token"
_CHANCE: Final = secrets.SystemRandom().random


class Session:
    """A :class:`agent.kbs.token.TokenSource` that attests to one broker.

    However many callers wait, one handshake is under way. Each waits for its own deadline; one that leaves
    does not disturb the others. Failures that can pass are tried again as long as somebody waits. Those who
    waited share a final failure; who comes later starts afresh.
    """

    def __init__(
        self,
        client: Broker,
        evidence: EvidenceSource,
        algorithm: KeyAlgorithm,
        clock: Clock,
        metrics: Metrics,
        *,
        endpoints: tuple[str, ...] = (),
        init_data: str | None = None,
        measured: Callable[[], int] = lambda: 0,
        refresh_while_used: float = limits.TOKEN_REFRESH_WHILE_USED,
        retry_for: float = limits.RETRY_FOR,
        trouble: Trouble | None = None,
        outage: Outage | None = None,
        pauses: Pauses | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = _CHANCE,
    ) -> None:
        """Open nothing yet.

        Args:
            client: the broker.
            evidence: of this guest.
            algorithm: of the key pair; each handshake makes a new one.
            clock: for lives and phases.
            metrics: of the daemon.
            endpoints: base URLs of the broker; they are part of :attr:`identity`.
            init_data: TOML text as measured, sent with every attestation.
            measured: how many runtime measurements there were; each makes the next caller attest again.
            retry_for: seconds in which a handshake that failed for a passing reason is begun again, when
                there is no ``outage``.
            trouble: what is remembered of the broker's failures; the client's, which also takes it back.
            outage: what requests know of the broker's outages; the client's.
            pauses: between tries; the client's.
            refresh_while_used: seconds after its last use a token is still renewed in the background; 0 for
                never: then the first caller after its end waits for a new one.
            sleep: pauses between handshakes; injected in tests.
            chance: 0 to 1, spreads pauses and renewals; injected in tests.
        """
        self._attestation = Attestation(
            client,
            endpoints=endpoints,
            evidence=evidence,
            algorithm=algorithm,
            clock=clock,
            metrics=metrics,
            init_data=init_data,
            measured=measured,
        )
        self._clock = clock
        self._while_used = refresh_while_used
        self._trouble = trouble or Trouble()
        self._unheard = (
            Trouble()
        )  # of flights that nobody waits for: callers do not inherit their long pauses
        self._outage = outage or Outage(clock, retry_for)
        self._pauses = pauses or Pauses(clock, sleep, chance)
        self._chance = chance
        self._flight: SingleFlight[str, KbsToken] = SingleFlight()
        self._progress = Progress(Deadline.never(clock))
        self._held: Held | None = None
        self._last_used = -math.inf
        self._refresh_from = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._background: asyncio.Task[None] | None = None
        self._work: asyncio.Task[object] | None = None
        self._closed = False
        self.last_failure: ErrorCode | None = None
        """Code of the latest handshake, if that failed."""

    @property
    def attested(self) -> bool:
        """Whether a token is held that has not expired."""
        return self.seconds_left() > 0

    @property
    def identity(self) -> str:
        """Digest over broker, init-data, TEE, devices, measurements and kind of key, as they are now.

        A resource cache compares it at each look-up: what was released for another identity is not handed
        out, and neither is a token of another one. Costs about a microsecond.
        """
        return self._attestation.identity

    def seconds_left(self) -> float:
        """Until the held token expires; 0 when none is held."""
        return 0.0 if self._held is None else max(0.0, self._held.token.expires - self._clock.boot())

    async def token(self, deadline: Deadline, *, refused: KbsToken | None = None) -> KbsToken:
        """The held token, or that of the handshake under way, or of a new one.

        Hold on to the token while an answer for it is under way: its JWT is overwritten when the last holder
        of one that was renewed lets go.

        Args:
            deadline: when this caller stops waiting.
            refused: the broker refused this one. It is dropped if it is still held; a hundred callers that
                were refused with it cause one handshake together.

        Raises:
            AgentError: when the deadline passes, the code of the phase that used the time (KBS_TIMEOUT or the
                last failure, EVIDENCE_TIMEOUT, APPRAISAL_TIMEOUT); DEADLINE_EXCEEDED if there was none left;
                CANCELLED after :meth:`close`; or what client, evidence source and handshake raise.
        """
        if self._closed:
            raise AgentError(ErrorCode.CANCELLED, "the agent is stopping")
        held, now = self._held, self._clock.boot()
        # T-TOKEN-41: by identity, so that a late refusal of an old token costs the new one nothing.
        # T-TOKEN-43: a token that vouches for another set of devices is not presented any more.
        if held is not None and (held.token is refused or held.token.identity != self.identity):
            self._drop()
        elif held is not None and now < held.usable_until:
            self._last_used = now
            self._refresh_if_due()
            return held.token
        token = await self._join(deadline)
        self._last_used = self._clock.boot()
        return token

    async def close(self) -> None:
        """Stop what is under way and wipe the token. Safe to call twice."""
        self._closed = True
        tasks = [task for task in (self._background, self._work) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._held is not None:
            self._held.token.jwt.wipe()
        self._drop()

    # --- one flight -------------------------------------------------------------------------------
    async def _join(self, deadline: Deadline) -> KbsToken:
        if deadline.remaining() <= 0:
            raise AgentError(ErrorCode.DEADLINE_EXCEEDED, "no time was left to attest")
        if not self._flight.under_way(_KEY):
            self._progress = Progress(deadline)
        progress = self._progress
        progress.joined(deadline, self._chance)
        self._pauses.hurry()
        # Half the grace: later than the transport, which can say more, and sooner than the flight of the
        # resource that this is a part of.
        last_call = Deadline(self._clock, deadline.at, deadline.grace() / GRACE_SHARE / 2)
        try:
            async with last_call.backstop("attesting"):
                forever = Deadline.never(self._clock)
                return await self._flight.join(_KEY, partial(self._fly, progress), forever, "attesting")
        except AgentError as error:
            if error.code is not ErrorCode.DEADLINE_EXCEEDED:
                raise
            raise self._given_up(progress, deadline) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise AgentError(ErrorCode.CANCELLED, "the agent is stopping") from None
            raise

    @staticmethod
    def _given_up(progress: Progress, deadline: Deadline) -> AgentError:
        """For a caller whose time is up while the flight goes on, or ends with it."""
        error = progress.given_up()
        # T-KBS-110: the flight may be old; what counts is how long this caller waited.
        patient = deadline.budget >= limits.RETRY_FOR and not background()
        if progress.patience is not None and patient:
            progress.patience.gave_up(progress.step, error, own=False, took=deadline.budget)
        return error

    async def _fly(self, progress: Progress) -> KbsToken:
        """Handshakes until one succeeds, fails for good, or nobody's time is left for another.

        When its last caller leaves, the flight is cancelled, so phases may use ``limits.ATTEST_DEADLINE``:
        callers that come one after the other share a slow quote or a slow appraisal, even if none of them
        has the time for all of it.
        """
        self._work = asyncio.current_task()
        deadline = Deadline.after(self._clock, limits.ATTEST_DEADLINE)
        patience = progress.patience = self._outage.begin("auth", "attest")
        try:
            while True:
                try:
                    token = await self._attestation.run(progress, deadline)
                    self.last_failure = None
                    return self._keep(token)
                except AgentError as error:
                    self.last_failure = error.code
                    progress.failed(error)
                    pause = self._next_pause(progress, patience, deadline, error)
                    if pause is None:
                        raise
                    progress.paused(self._clock.boot(), pause, error)
                await self._pauses.rest(progress.pause)
        finally:
            if self._work is asyncio.current_task():  # else: cancelled, and a newer flight has begun
                self._work = None

    def _next_pause(
        self, progress: Progress, patience: Patience, deadline: Deadline, error: AgentError
    ) -> float | None:
        """Seconds until the next handshake; None when there is none, which others may learn from."""
        theirs = progress.latest.remaining()
        left = min(patience.left(error), theirs, deadline.remaining())
        trouble = self._trouble if progress.waited_for else self._unheard
        failed = trouble.failed(progress.failures - progress.unheard)
        pause = pause_within(failed, error, self._chance, left)
        if pause is None and progress.waited_for:
            patience.gave_up(progress.step, error, own=theirs > 0)
        return pause

    # --- the held token ---------------------------------------------------------------------------
    def _keep(self, token: KbsToken) -> KbsToken:
        if self._closed:
            token.jwt.wipe()
            raise AgentError(ErrorCode.CANCELLED, "the agent is stopping")
        self._drop()
        self._unheard = Trouble()
        wipe_when_dropped(token)
        self._held = held = Held.since(token, self._clock.boot(), self._chance())
        self._plan_refresh(held.refresh_from)
        _log.info("attested", extra={"expires_in": round(self.seconds_left())})
        return token

    def _drop(self) -> None:
        self._held = None  # other callers may be sending it just now: wiped when they are done
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan_refresh(self, at: float) -> None:
        """Look again at ``at``. The timer may be late (suspend): then the next caller looks."""
        self._refresh_from = at
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._while_used <= 0:
            return
        wait = max(0.0, at - self._clock.boot())
        self._timer = asyncio.get_running_loop().call_later(wait, self._refresh_if_due)

    def _refresh_if_due(self) -> None:
        busy = self._background is not None or self._closed or self._held is None
        due = refresh_due(self._clock.boot(), self._refresh_from, self._last_used, self._while_used)
        if due and not busy:
            self._background = asyncio.get_running_loop().create_task(self._refresh())

    async def _refresh(self) -> None:
        """Renew while callers go on with the old token, which stays until its time is up."""
        work_in_background()
        try:
            await self._join(Deadline.never(self._clock))
        except AgentError as error:
            # Said by the attestation already; this line tells that nobody was hurt yet.
            _log.info(
                "token not renewed yet",
                extra={"code": error.code.name, "retry_in": limits.TOKEN_REFRESH_PAUSE},
            )
            if not self._closed and self._held is not None:
                self._plan_refresh(self._clock.boot() + limits.TOKEN_REFRESH_PAUSE)
        finally:
            self._background = None
