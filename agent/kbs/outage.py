"""What requests to one broker tell each other of an outage. Pure: the clock is injected.

kata-agent opens the sealed values of a container one after another. If each of them waited its whole patience
for a broker that is away, the container's time would be over before the reason was told. So the first that
used up its patience leaves a note: for ``limits.OUTAGE_KNOWN`` seconds, requests that begin get one try each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from agent.clock import Clock

LINE: Final = frozenset({ErrorCode.KBS_UNREACHABLE, ErrorCode.KBS_DNS_FAILED, ErrorCode.KBS_TLS_TIMEOUT})
"""Failures of the way to the broker: they concern every step, and any answer ends them."""

_KINDS: Final = LINE | {ErrorCode.KBS_TIMEOUT, ErrorCode.APPRAISAL_TIMEOUT, ErrorCode.KBS_BUSY}


def place(step: str, code: ErrorCode) -> str:
    """What a failure concerns: its step, or all of them (empty)."""
    return "" if code in LINE else step


class Known(msgspec.Struct, eq=False):
    """An outage that a request has waited for in vain.

    Attributes:
        reason: how that request ended.
        until: boot clock, in seconds; later requests are patient again.
        silent: tries in a row that waited for an answer; 0: failures come at once.
    """

    reason: AgentError
    until: float
    silent: int = 0


class Outage:
    """The outages of one broker, by what they concern.

    Steps are ``auth``, ``attest`` and ``resource``, as in :class:`agent.kbs.transport.Call`.

    Args:
        clock: its boot time counts.
        retry_for: seconds in which a request is tried again; see :meth:`Patience.left`.
    """

    def __init__(self, clock: Clock, retry_for: float = limits.RETRY_FOR) -> None:
        self.clock = clock
        self.retry_for = retry_for
        self._known: dict[str, Known] = {}
        self._answered: dict[str, float] = {}
        self._took: dict[str, float] = {}

    @property
    def answered_ever(self) -> bool:
        """Whether the broker has answered since this process began."""
        return bool(self._answered)

    def begin(self, *steps: str) -> Patience:
        """A request begins that will pass these steps."""
        known = next((found for step in steps if (found := self.known(step)) is not None), None)
        return Patience(self, self.clock.boot(), known)

    def known(self, step: str) -> Known | None:
        """The outage that concerns a step and is fresh enough to count."""
        now = self.clock.boot()
        both = (self._known.get(""), self._known.get(step))
        return next((found for found in both if found is not None and now < found.until), None)

    def stands(self, known: Known) -> bool:
        """Whether nothing was answered since."""
        return any(found is known for found in self._known.values())

    def limit(self, step: str) -> float:
        """Seconds one exchange may take now; ``math.inf`` unless silence is to be expected."""
        known = self.known(step)
        if known is None or not known.silent:
            return math.inf
        return max(limits.OUTAGE_TRY_LEAST, limits.OUTAGE_TRY / 2.0 ** (min(known.silent, 32) - 1))

    def answered(self, step: str) -> None:
        """The broker gave an answer, be it a refusal."""
        self._answered[step] = self.clock.boot()
        self._known.pop("", None)
        self._known.pop(step, None)

    def failed(self, step: str, took: float) -> None:
        """An exchange failed after ``took`` seconds, in a way that other requests may share."""
        self._took[step] = took
        known = self.known(step)
        if known is not None and took >= min(limits.BREAKER_PATIENCE, self.limit(step)):
            known.silent += 1

    def note(self, step: str, error: AgentError, took: float | None) -> None:
        """A request has waited long enough for all; see :meth:`Patience.gave_up`."""
        now = self.clock.boot()
        took = self._took.get(step, 0.0) if took is None else took
        # T-KBS-111: one resource that hangs is no outage while the broker answers for others.
        if self._answered.get(step, -math.inf) > now - took:
            return
        # A copy: the error's traceback would keep the request alive.
        reason = AgentError(error.code, error.detail, retry_after=error.retry_after)
        silent = int(took >= limits.BREAKER_PATIENCE)
        self._known[place(step, error.code)] = Known(reason, now + limits.OUTAGE_KNOWN, silent)


class Patience(msgspec.Struct, eq=False):
    """How long one request is tried again.

    Attributes:
        outage: what others know.
        began: boot clock, in seconds.
        known: the outage that stood when it began; then it gets one try.
    """

    outage: Outage
    began: float
    known: Known | None = None

    def left(self, error: AgentError) -> float:
        """Seconds left for another try after ``error``, 0 or less for none.

        In a known outage there is one try, unless the broker has answered meanwhile. A broker that answered
        before and cannot be reached now gets ``limits.OUTAGE_SHARE`` of it: while a guest boots, nothing has
        answered yet, and its network or its broker may need the whole time.
        """
        if self.known is not None and self.outage.stands(self.known):
            return 0.0
        return self.began + self._whole(error) - self.outage.clock.boot()

    def restart(self) -> None:
        """Count from now on: so far nobody waited."""
        self.began = self.outage.clock.boot()

    def gave_up(self, step: str, error: AgentError, *, own: bool, took: float | None = None) -> None:
        """The request ends with ``error``; when it has used up its patience, others learn from it.

        Args:
            step: that failed last; empty when it was none of the broker's.
            error: its end.
            own: it ended by limits of this program, not by its caller's deadline.
            took: seconds of the last try; None: as the client told.
        """
        if not step or error.code not in _KINDS:
            return
        waited = self.outage.clock.boot() - self.began
        # T-KBS-110: a caller that waits for a moment only must not cost the others their patience.
        if waited < self._whole(error) - limits.RETRY_LEAST or not (own or waited >= limits.RETRY_FOR):
            return
        self.outage.note(step, error, took)

    def _whole(self, error: AgentError) -> float:
        again = self.outage.retry_for
        lost = error.code is ErrorCode.KBS_UNREACHABLE and self.outage.answered_ever
        return again * limits.OUTAGE_SHARE if lost else again
