"""Alive, and ready: computed from what the parts say, kept nowhere else.

A reason is a word in capitals: the name of an error code, or one of ours such as ``STARTING``. Reasons hold
no name, address or text, so that they can be answered to anybody.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.clock import SystemClock
from agent.errors import AgentError, ErrorCode
from agent.observe.redact import locations

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from agent.clock import Clock

_log = logging.getLogger(__name__)

STARTING: Final = "STARTING"
STOPPING: Final = "STOPPING"
STALLED: Final = "STALLED"
NOT_LISTENING: Final = "NOT_LISTENING"
UNKNOWN_CHECK: Final = "UNKNOWN_CHECK"

BEAT_LIMIT: Final = 30.0
"""Seconds the event loop may go without a beat before it counts as stuck."""

_REASON: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class HealthReport:
    """One answer.

    Attributes:
        ok: nothing is wrong.
        reasons: why not; without doubles, in the order the checks were added.
    """

    ok: bool
    reasons: tuple[str, ...] = ()


class Health:
    """Liveness and readiness of one daemon.

    Args:
        clock: for the age of the last beat; the system's unless given.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._beat: float | None = None
        self._checks: dict[str, Callable[[], str | None]] = {}
        self._phase: str | None = STARTING

    def add(self, name: str, check: Callable[[], str | None]) -> None:
        """Add, or replace, a readiness check.

        Args:
            name: what callers may ask for, e.g. ``sockets``, ``platform``, ``kbs``, ``attestation``.
            check: called at every question, so it must be quick; a reason, or None when all is well.
        """
        self._checks[name] = check

    def started(self) -> None:
        """All sockets are open."""
        self._phase = None

    def stopping(self) -> None:
        """No new requests, please."""
        self._phase = STOPPING

    def beat(self) -> None:
        """The event loop got round to this; once begun, call it every few seconds."""
        self._beat = self._clock.boot()

    def live(self) -> HealthReport:
        """Whether the event loop turns. A daemon without a TEE or a broker is alive.

        Without any beat the answer itself is the sign of life, if the event loop gives it.
        """
        if self._beat is not None and self._clock.boot() - self._beat > BEAT_LIMIT:
            return HealthReport(ok=False, reasons=(STALLED,))
        return HealthReport(ok=True)

    def ready(self, need: Collection[str] | None = None) -> HealthReport:
        """Whether requests can succeed.

        Args:
            need: names of checks to ask; None: all. An unknown name is a reason not to be ready.
        """
        reasons = [] if self._phase is None else [self._phase]
        if need is not None and not set(need) <= self._checks.keys():
            reasons.append(UNKNOWN_CHECK)
        for name, check in self._checks.items():
            if need is None or name in need:
                reason = _asked(name, check)
                if reason is not None:
                    reasons.append(reason)
        return HealthReport(ok=not reasons, reasons=tuple(dict.fromkeys(reasons)))


def _asked(name: str, check: Callable[[], str | None]) -> str | None:
    try:
        reason = check()
    except AgentError as error:
        return error.code.name
    except Exception as error:  # noqa: BLE001 - one broken check is a reason, not the end of the answer
        _log.error(  # without the exception's text (T-LOG-1)
            "health check failed",
            extra={"phase": name, "error": type(error).__name__, "where": locations(error)},
        )
        return ErrorCode.INTERNAL.name
    # T-LOG-30: anything but a word in capitals could carry text to whoever asks.
    return reason if reason is None or _REASON.fullmatch(reason) else ErrorCode.INTERNAL.name


class LastOutcome:
    """How the last attempt at something ended; a readiness check that a later success clears."""

    def __init__(self) -> None:
        self._code: ErrorCode | None = None

    def succeeded(self) -> None:
        """The last attempt succeeded."""
        self._code = None

    def failed(self, code: ErrorCode) -> None:
        """The last attempt failed."""
        self._code = code

    def __call__(self) -> str | None:
        """The failure's code name, or None."""
        return None if self._code is None else self._code.name
