"""Running a daemon in the foreground until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from importlib import import_module
from typing import TYPE_CHECKING

from agent.cli.launchers import ROLES as PROGRAMS
from agent.daemon import ALL_ROLES, Daemon, Role
from agent.errors import AgentError
from agent.hardening import harden
from agent.observe.logs import setup
from agent.observe.reports import LoopReports
from agent.observe.sd_notify import Notifier
from agent.serve.activation import take_listeners
from agent.serve.heartbeat import Heartbeat

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from agent.config.model import Config
    from agent.serve.launchers import Launchers

log = logging.getLogger("coco.daemon")

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_daemon(
    config: Config,
    roles: frozenset[Role] = ALL_ROLES,
    *,
    bind: Callable[[], str | None] = lambda: None,
) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP, as upstream's programs; then stop cleanly.

    A process with the attester role also serves the roles of launchers that are started after it.

    Args:
        config: the effective configuration.
        roles: which roles to serve.
        bind: binds init-data, before any socket is opened; its text, if it is to be sent.

    Raises:
        AgentError: the configuration cannot be served, or init-data cannot be bound. No socket is
            left.
    """
    harden()
    setup(config.observe)
    init_data = bind()
    notifier = Notifier.from_environment(os.environ, os.getpid())
    listeners = _inherited(roles)
    asyncio.run(_serve(Daemon(config, roles, init_data=init_data, listeners=listeners), roles, notifier))
    return 0


def _inherited(roles: frozenset[Role]) -> dict[Role, socket.socket]:
    """Sockets that systemd opened; one whose role is not served is closed, so that nobody waits at it."""
    inherited: dict[Role, socket.socket] = {}
    for name, listener in take_listeners(os.environ, os.getpid()).items():
        role = Role(PROGRAMS[name])
        if role in roles:
            inherited[role] = listener
        else:
            log.warning("a socket was passed for a role that is not served", extra={"role": role.value})
            listener.close()
    return inherited


async def _serve(daemon: Daemon, roles: frozenset[Role], notifier: Notifier) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(LoopReports())
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    launchers = _listen_for_launchers(daemon, roles)
    heartbeat: asyncio.Task[None] | None = None
    try:
        await daemon.start()
        if launchers is not None:
            launchers.start()
        notifier.ready(f"serving {', '.join(sorted(role.value for role in roles))}")
        heartbeat = asyncio.create_task(Heartbeat(notifier, daemon.addresses).run())
        if launchers is not None:
            await asyncio.to_thread(_prepare)
        await stopped.wait()
    finally:
        notifier.stopping()
        if heartbeat is not None:
            heartbeat.cancel()
        await daemon.stop()
        if launchers is not None:
            await launchers.stop()


def _prepare() -> None:
    """Load what launchers will ask for, while they are not there yet: each then waits for its socket only.

    Beside the loop, which serves meanwhile.
    """
    for name in ("agent.daemon.hub", "agent.daemon.gateway"):
        import_module(name)


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
