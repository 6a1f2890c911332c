"""Running a daemon in the foreground until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from agent.daemon import ALL_ROLES, Daemon, Role
from agent.hardening import harden
from agent.observe.logs import setup
from agent.observe.reports import LoopReports

if TYPE_CHECKING:
    from agent.config.model import Config

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_daemon(config: Config, roles: frozenset[Role] = ALL_ROLES, *, init_data: str | None = None) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP, as upstream's programs; then stop cleanly.

    Raises:
        AgentError: the configuration cannot be served. No socket is left behind.
    """
    harden()
    setup(config.observe)
    asyncio.run(_serve(Daemon(config, roles, init_data=init_data)))
    return 0


async def _serve(daemon: Daemon) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(LoopReports())
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    await daemon.start()
    try:
        await stopped.wait()
    finally:
        await daemon.stop()
