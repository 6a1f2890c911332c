"""A progress bar on standard error, when somebody looks at it."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TextIO

_WIDTH: Final = 30
_EVERY: Final = 0.1
_MIB: Final = 1 << 20


class Progress:
    """Bytes done of bytes to do; safe to call from any thread.

    Nothing is drawn unless ``stream`` is a terminal.
    """

    def __init__(self, what: str, total: int, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        """Draw nothing yet.

        Args:
            what: one word before the bar.
            total: bytes to do.
            quiet: draw nothing at all.
            stream: standard error by default.
        """
        self._what = what
        self._total = max(total, 1)
        self._stream = stream or sys.stderr
        self._shown = not quiet and self._stream.isatty()
        self._lock = threading.Lock()
        self._done = 0
        self._begin = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            with self._lock:
                self._draw()
                self._stream.write("\n")
                self._stream.flush()

    def advance(self, count: int) -> None:
        """``count`` more bytes are done."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if self._shown and now - self._drawn >= _EVERY:
                self._drawn = now
                self._draw()

    def _draw(self) -> None:
        share = min(1.0, self._done / self._total)
        speed = self._done / _MIB / max(time.monotonic() - self._begin, 1e-3)
        bar = ("#" * int(share * _WIDTH)).ljust(_WIDTH, ".")
        self._stream.write(
            f"\r{self._what} [{bar}] {share:4.0%} {self._done / _MIB:.0f} MiB {speed:.0f} MiB/s  "
        )
        self._stream.flush()
