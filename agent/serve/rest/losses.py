"""Connections that were ended against the wish of their clients: counted, and logged in sums."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from agent.config import limits

if TYPE_CHECKING:
    from agent.http.server.exchange import Loss
    from agent.observe.metrics import Metrics

_log = logging.getLogger(__name__)


class Losses:
    """Counts, and writes one line for all of ``limits.LOSSES_PAUSE`` seconds.

    Args:
        metrics: counts them too; None for no metrics.
    """

    def __init__(self, metrics: Metrics | None) -> None:
        self._metrics = metrics
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, loss: Loss) -> None:
        """One connection more."""
        if self._metrics is not None:
            self._metrics.connection_ended(loss.value)
        # T-LOG-24: connections cost their client nothing, so they must not be a line each.
        if not self._counts:
            self._timer = asyncio.get_running_loop().call_later(limits.LOSSES_PAUSE, self._log)
        self._counts[loss.value] += 1

    def flush(self) -> None:
        """Write what was counted."""
        if self._timer is not None:
            self._timer.cancel()
            self._log()

    def _log(self) -> None:
        self._timer = None
        reasons = [f"{name} {count}" for name, count in sorted(self._counts.items())]
        extra = {"api": "rest", "count": self._counts.total(), "reasons": reasons}
        _log.warning("connections were ended or refused", extra=extra)
        self._counts.clear()
