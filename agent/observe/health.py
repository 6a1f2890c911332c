"""Alive, and ready: computed from what the parts say, kept nowhere else.

A reason is a word in capitals: the name of an error code, or one of ours such as ``STARTING``. Reasons hold
no name, address or text, so that they can be answered to anybody.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.observe.redact import locations

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

STARTING: Final = "STARTING"
STOPPING: Final = "STOPPING"

_REASON: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


class HealthReport(msgspec.Struct, frozen=True):
    """One answer.

    Attributes:
        ok: nothing is wrong.
        reasons: why not; without doubles, in the order the checks were added.
    """

    ok: bool
    reasons: tuple[str, ...] = ()


class Health:
    """Liveness and readiness of one daemon."""

    def __init__(self) -> None:
        self._checks: dict[str, Callable[[], str | None]] = {}
        self._phase: str | None = STARTING

    def add(self, name: str, check: Callable[[], str | None]) -> None:
        """Add, or replace, a readiness check.

        Args:
            name: for the log if it breaks, e.g. ``sockets``, ``platform``, ``kbs``, ``attestation``.
            check: called at every question, so it must be quick; a reason, or None when all is well.
        """
        self._checks[name] = check

    def remove(self, name: str) -> None:
        """Forget a check whose part is closed."""
        self._checks.pop(name, None)

    def started(self) -> None:
        """All sockets are open."""
        self._phase = None

    def stopping(self) -> None:
        """No new requests, please."""
        self._phase = STOPPING

    def live(self) -> HealthReport:
        """Whether the event loop turns, which this answer shows. A missing TEE is no reason to die."""
        return HealthReport(ok=True)

    def ready(self) -> HealthReport:
        """Whether requests can succeed; every check is asked."""
        reasons = [] if self._phase is None else [self._phase]
        asked = (_asked(name, check) for name, check in self._checks.items())
        reasons += [reason for reason in asked if reason is not None]
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
