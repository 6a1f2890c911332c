"""Running a daemon in the foreground until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

from agent.daemon import ALL_ROLES, Daemon, Role
from agent.errors import AgentError
from agent.hardening import harden
from agent.observe.logs import setup
from agent.observe.reports import LoopReports

if TYPE_CHECKING:
    from agent.config.model import Config
    from agent.serve.launchers import Launchers

log = logging.getLogger("coco.daemon")

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_daemon(config: Config, roles: frozenset[Role] = ALL_ROLES, *, init_data: str | None = None) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP, as upstream's programs; then stop cleanly.

    A process with the attester role also serves the roles of launchers that are started after it.

    Raises:
        AgentError: the configuration cannot be served. No socket is left behind.
    """
    harden()
    setup(config.observe)
    asyncio.run(_serve(Daemon(config, roles, init_data=init_data), roles))
    return 0


async def _serve(daemon: Daemon, roles: frozenset[Role]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(LoopReports())
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    launchers = _listen_for_launchers(daemon, roles)
    try:
        await daemon.start()
        if launchers is not None:
            launchers.start()
        await stopped.wait()
    finally:
        await daemon.stop()
        if launchers is not None:
            await launchers.stop()


def _listen_for_launchers(daemon: Daemon, roles: frozenset[Role]) -> Launchers | None:
    """Before the attester's socket shows: a launcher may be started the moment that it does.

    A guest that cannot have the socket has a process for each role.
    """
    # A hub or gateway alone may be in another network, and would not see an attester that comes later.
    if Role.ATTESTER not in roles or not daemon.config.control.launchers:
        return None
    from agent.cli.hosting import Host  # noqa: PLC0415  # other roles do not need it
    from agent.serve.launchers import Launchers  # noqa: PLC0415

    launchers = Launchers(Host(daemon, roles).plan)
    try:
        launchers.listen()
    except AgentError as error:
        log.warning(
            "launchers run their roles alone", extra={"code": error.code.name, "detail": error.detail}
        )
        return None
    return launchers
