"""The runtime event log: measured, kept, and shipped with evidence (attesters.md 17)."""

from __future__ import annotations

from agent.tee.eventlog.measurer import MeasuredEvidence, Measurer
from agent.tee.eventlog.runtime import RuntimeLog
from agent.tee.eventlog.ship import header, problems, shipped, unreplayable

__all__ = ["MeasuredEvidence", "Measurer", "RuntimeLog", "header", "problems", "shipped", "unreplayable"]
