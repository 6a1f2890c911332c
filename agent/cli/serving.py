"""The daemon on its loop, once its sockets listen (``run.py``)."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

from agent import readahead
from agent.cli.hosting import Host
from agent.cli.signals import STOP_SIGNALS
from agent.daemon import Daemon
from agent.observe.reports import LoopReports
from agent.serve.heartbeat import Heartbeat
from agent.serve.launchers import Launchers

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from agent.config.assemble import InitDataFile
    from agent.config.model import Config
    from agent.observe.sd_notify import Notifier
    from agent.roles import Role
    from agent.serve.sockets import BoundSocket


def serve(
    config: Config,
    roles: frozenset[Role],
    *,
    init_data: str | None,
    init_data_file: InitDataFile | None,
    notifier: Notifier,
    listeners: Mapping[Role, Sequence[socket.socket]],
    for_launchers: BoundSocket | None,
) -> None:
    """Serve until a signal.

    Args:
        config: the effective configuration.
        roles: which roles to serve.
        init_data: TOML text to send with every attestation.
        init_data_file: agent.toml of it, for the roles of launchers.
        notifier: told that the daemon is up.
        listeners: sockets that listen already.
        for_launchers: where launchers hand over their roles; None: nowhere.

    Raises:
        AgentError: the configuration cannot be served.
    """
    daemon = Daemon(config, roles, init_data=init_data, listeners=listeners)
    readahead.finish()
    launchers = (
        None if for_launchers is None else Launchers(Host(daemon, roles, init_data_file).plan, for_launchers)
    )
    asyncio.run(_serve(daemon, roles, notifier, launchers))


async def _serve(
    daemon: Daemon, roles: frozenset[Role], notifier: Notifier, launchers: Launchers | None
) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(LoopReports())
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    heartbeat: asyncio.Task[None] | None = None
    try:
        await daemon.start()
        if launchers is not None:
            launchers.start()
        notifier.ready(f"serving {', '.join(sorted(role.value for role in roles))}")
        heartbeat = asyncio.create_task(Heartbeat(notifier, daemon.addresses).run())
        if launchers is not None:
            await _prepare()
        await stopped.wait()
    finally:
        notifier.stopping()
        if heartbeat is not None:
            heartbeat.cancel()
        await daemon.stop()
        if launchers is not None:
            await launchers.stop()


async def _prepare() -> None:
    """Load what launchers will ask for, while they are not there yet: each then waits for its socket only.

    On the loop, which has nothing else to do yet: what a thread allocates has an arena of its own.
    """
    for name in ("agent.daemon.hub", "agent.daemon.gateway"):
        import_module(name)
        await asyncio.sleep(0)
