"""An embedded Key Broker Service for development and tests; it proves nothing."""

from __future__ import annotations

from agent.devkit.kbs.broker import Settings
from agent.devkit.kbs.faults import Fault, Kind
from agent.devkit.kbs.policy import Policy
from agent.devkit.kbs.server import DevKbs, Seen

__all__ = ["DevKbs", "Fault", "Kind", "Policy", "Seen", "Settings"]
