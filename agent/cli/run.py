"""Running a daemon in the foreground until a signal ends it.

Listen first: callers can connect, and wait, before the rest of the daemon is loaded.
"""

from __future__ import annotations

import logging
import os
import socket
from itertools import chain
from typing import TYPE_CHECKING

from agent import handover
from agent.cli import signals
from agent.cli.launchers import ROLES as PROGRAMS
from agent.errors import AgentError
from agent.hardening import harden
from agent.observe.logs import setup
from agent.observe.sd_notify import Notifier
from agent.roles import ALL_ROLES, Role
from agent.serve.activation import take_listeners
from agent.serve.sockets import SCHEME, BoundSocket, listen_unix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.cli.sources import Beginning
    from agent.config.model import Config

log = logging.getLogger("coco.daemon")


def run_daemon(
    config: Config,
    roles: frozenset[Role] = ALL_ROLES,
    *,
    begin: Callable[[], Beginning],
) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP, as upstream's programs; then stop cleanly.

    A process with the attester role also serves the roles of launchers that are started after it.

    Args:
        config: the effective configuration, but for what init-data says.
        roles: which roles to serve.
        begin: binds init-data, before any socket is opened.

    Raises:
        AgentError: the configuration cannot be served, or init-data cannot be bound. No socket is left.
    """
    harden()
    setup(config.observe)
    beginning = begin()
    if beginning.config is not config:
        config = beginning.config
        setup(config.observe)
    notifier = Notifier.from_environment(os.environ, os.getpid())
    listeners = _inherited(roles)
    launchers = None
    signals.raise_stopped()
    try:
        launchers = _listen_for_launchers(config, roles)
        _listen(config, roles, listeners)
        # Two thirds of the start are spent here, with the sockets there already.
        from agent.cli.serving import serve  # noqa: PLC0415

        serve(
            config,
            roles,
            init_data=beginning.text,
            init_data_file=beginning.init_data,
            notifier=notifier,
            listeners=listeners,
            for_launchers=launchers,
        )
    except signals.Stopped:
        log.info("stopped before it served")
    finally:
        for listener in chain([launchers], *listeners.values()):
            if isinstance(listener, BoundSocket):
                listener.unlink()
    return 0


def _inherited(roles: frozenset[Role]) -> dict[Role, Sequence[socket.socket]]:
    """Sockets that systemd opened; one whose role is not served is closed, so that nobody waits at it."""
    inherited: dict[Role, Sequence[socket.socket]] = {}
    for name, listeners in take_listeners(os.environ, os.getpid()).items():
        role = PROGRAMS[name]
        if role in roles:
            inherited[role] = listeners
            continue
        log.warning("a socket was passed for a role that is not served", extra={"role": role.value})
        for listener in listeners:
            listener.close()
    return inherited


def _listen_for_launchers(config: Config, roles: frozenset[Role]) -> BoundSocket | None:
    """Before the attester's socket shows: a launcher may be started the moment that it does.

    A guest that cannot have the socket has a process for each role.
    """
    # A hub or gateway alone may be in another network, and would not see an attester that comes later;
    # who has all roles has none to take.
    if Role.ATTESTER not in roles or roles == ALL_ROLES or not config.control.launchers:
        return None
    try:
        # T-CTRL-5: mode 0600; the kernel's word on the caller is looked at as well.
        return listen_unix(f"{SCHEME}{handover.PATH}", kind=socket.SOCK_SEQPACKET)
    except AgentError as error:
        extra = {"code": error.code.name, "detail": error.detail}
        log.warning("launchers run their roles alone", extra=extra)
        return None


def _listen(config: Config, roles: frozenset[Role], listeners: dict[Role, Sequence[socket.socket]]) -> None:
    addresses = {Role.ATTESTER: config.attester.socket, Role.HUB: config.hub.socket}
    for role, address in addresses.items():
        if role in roles and role not in listeners:
            listeners[role] = (listen_unix(address),)
    if Role.GATEWAY in listeners:  # as far as systemd opened any; otherwise the role does
        from agent.serve.rest.address import with_twins  # noqa: PLC0415  # few have systemd open it

        listeners[Role.GATEWAY] = with_twins(listeners[Role.GATEWAY])
