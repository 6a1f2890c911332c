"""Evidence collected in a process of its own, which can be killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester as Settings


async def collect_in_process(
    module: str, settings: Settings, report_data: bytes, deadline: Deadline
) -> bytes:
    """Run ``module.collect(settings, report_data, deadline)`` in a child process; kill it at the deadline."""
    raise NotImplementedError((module, settings, report_data, deadline))
