"""How far this guest's clock is from the broker's (user_pains.md row 16).

A guest's clock may start wrong or be set by the host. No life of a token depends on it, but certificates and
brokers do: then an error should say that it was the clock, and by how much.
"""

from __future__ import annotations

import math
import re
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from agent.clock import Clock

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FIXDATE: Final = re.compile(
    rf"(?P<weekday>{'|'.join(_DAYS)}), (?P<day>[0-9]{{2}}) (?P<month>{'|'.join(MONTHS)}) "
    r"(?P<year>[0-9]{4}) (?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2}) GMT",
    re.ASCII,
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DATE_MEANS: Final = ("not yet valid", "has expired")
"""What OpenSSL says of a certificate whose dates do not fit (X509_verify_cert_error_string)."""


def parse_date(text: str) -> float | None:
    """Seconds since the Unix epoch for an IMF-fixdate (RFC 9110 5.6.7), ``Sun, 06 Nov 1994 08:49:37 GMT``.

    The obsolete formats are not read: no broker sends them. Needs no locale.

    Returns:
        Whole seconds, or None for anything else, a date that does not exist and one before 1970.
    """
    match = _FIXDATE.fullmatch(text)
    if match is None:
        return None
    second = int(match["second"])
    leap = second == 60  # a leap second; the calendar of datetime has none
    try:
        date = datetime(
            int(match["year"]),
            MONTHS.index(match["month"]) + 1,
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            59 if leap else second,
            tzinfo=UTC,
        )
    except ValueError:
        return None
    if _DAYS[date.weekday()] != match["weekday"] or date < _EPOCH:
        return None
    return float((date - _EPOCH) // timedelta(seconds=1) + leap)


class ClockSkew:
    """Estimates how far the guest's wall clock is ahead of the broker's.

    Fed by the HTTP client with the ``Date`` of every answer that came over verified or pinned TLS, and of no
    other: anybody on the way could write it (T-KBS-80).

    It is the broker's time against the boot clock that is remembered, since the boot clock does not jump. So
    the offset follows at once when somebody sets the guest's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._broker: deque[float] = deque(maxlen=limits.SKEW_SAMPLES)  # broker's time minus boot clock

    def observe(self, date_header: str, took: float = 0.0) -> None:
        """Take one answer into account. Call it right when the head has arrived; ignores what is no date.

        Args:
            date_header: value of ``Date``, from a TLS-authenticated answer.
            took: seconds from sending the request to the answer's head. Half of it is the error.
        """
        date = parse_date(date_header)
        if date is not None and math.isfinite(took):
            # `Date` is cut to whole seconds: on average half a second has passed since.
            self._broker.append(date + 0.5 + max(0.0, took) / 2 - self._clock.boot())

    def offset(self) -> float | None:
        """Seconds the guest's wall clock is ahead of the broker's (negative: behind); None when unknown.

        The median of the last ``limits.SKEW_SAMPLES`` answers: one slow answer, or one endpoint with a wrong
        clock, does not decide. Good to about a second.
        """
        if not self._broker:
            return None
        # Not statistics.median: that module and its fractions are 0.6 MiB for one line.
        ordered = sorted(self._broker)
        middle = len(ordered) // 2
        median = (ordered[middle] + ordered[~middle]) / 2
        return self._clock.wall() - self._clock.boot() - median

    def before_release(self) -> bool:
        """Whether the guest's clock shows a time before this release was made, so that it must be wrong."""
        return self._clock.wall() < limits.RELEASED


def explain(error: AgentError, skew: ClockSkew | None, *, just_attested: bool = False) -> AgentError:
    """``error``, or CLOCK_SKEW with the offset when the clock is the likely cause.

    For two places, both of which raise the answer instead of the error:

    * ``agent.kbs.resources``: a token that is refused (TOKEN_REJECTED) although it was issued just now,
      with ``just_attested``; and more than ``limits.SKEW_LARGE`` seconds between the clocks.
    * the mapping of TLS failures: a certificate that is "not yet valid" or "has expired" (OpenSSL's words in
      the detail of KBS_TLS_FAILED), and either that much skew or a guest clock from before this release.

    Args:
        error: how it ended.
        skew: of that broker; None leaves ``error`` as it is.
        just_attested: whether the refused token is from a handshake for this very request.
    """
    if skew is None:
        return error
    offset = skew.offset()
    large = offset is not None and abs(offset) > limits.SKEW_LARGE
    if error.code is ErrorCode.TOKEN_REJECTED:
        blamed = just_attested and large
    elif error.code is ErrorCode.KBS_TLS_FAILED:
        blamed = any(words in error.detail for words in _DATE_MEANS) and (large or skew.before_release())
    else:
        blamed = False
    if not blamed:
        return error
    detail = f"{describe(offset)}; {error}"
    return AgentError(ErrorCode.CLOCK_SKEW, detail, problem=error.problem, retry_after=error.retry_after)


def describe(offset: float | None) -> str:
    """The offset in words, for an operator."""
    if offset is None:
        return "this guest's clock shows a time before this release was made"
    side = "ahead of" if offset >= 0 else "behind"
    return f"this guest's clock is {abs(offset):.0f} s {side} the broker's"
