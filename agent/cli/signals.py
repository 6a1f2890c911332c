"""What ends our programs in good order, as upstream's (kata_integration.md 9.1)."""

from __future__ import annotations

import signal

TYPE_CHECKING = False  # launchers import this, and typing takes 6 to 20 ms
if TYPE_CHECKING:
    from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(Exception):  # noqa: N818  # nothing failed
    """A signal asks this program to end."""


def raise_stopped() -> None:
    """Have :class:`Stopped` raised, wherever the program is, when one of the signals comes."""
    for number in STOP_SIGNALS:
        signal.signal(number, _stop)


def ignore() -> None:
    """Have the signals do nothing: the end has begun."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stopped
