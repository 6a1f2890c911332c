"""Opening the roles of launchers in a daemon that runs (``agent/handover.py``)."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from agent import handover
from agent.cli import launchers, text
from agent.errors import AgentError
from agent.roles import Role
from agent.serve.launchers import AloneError, Plan, RefusedError
from agent.serve.rest.address import parse_bind

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from agent.config.assemble import InitDataFile
    from agent.daemon import Daemon

log = logging.getLogger("coco.launchers")


class Host:
    """Says how the roles of launchers are opened in a daemon.

    Args:
        daemon: that serves them.
        own: roles it was started with; these are not taken over.
        init_data: agent.toml of the init-data that the daemon bound.
    """

    def __init__(self, daemon: Daemon, own: frozenset[Role], init_data: InitDataFile | None = None) -> None:
        self._daemon = daemon
        self._own = own
        self._init_data = init_data

    def plan(self, wanted: handover.Wanted) -> Plan:
        """What to do for one launcher.

        Raises:
            RefusedError: its command line or its configuration is wrong.
            AloneError: its role cannot be served from here.
        """
        role = launchers.ROLES.get(wanted.program, Role.ATTESTER)
        if role is Role.ATTESTER or role in self._own:
            raise AloneError(f"the {role.value} role of this process is not handed over")
        if role is Role.HUB and wanted.network != handover.network_namespace():
            # Its broker may be reachable from there only.
            raise AloneError("another network namespace")
        try:
            config = launchers.read(
                wanted.program, wanted.arguments, wanted.environ, wanted.folder, self._init_data
            ).config
            bind = parse_bind(config.gateway.bind) if role is Role.GATEWAY else None
        except launchers.UsageError as error:
            raise RefusedError(text.EXIT_USAGE, str(error)) from None
        except SystemExit:
            # T-CTRL-10: argparse ends whoever asks for help, in any spelling; here that would be the daemon.
            raise AloneError("it asks about itself") from None
        except AgentError as error:
            raise _refused(error) from None

        async def opened(listeners: Sequence[socket.socket]) -> None:
            try:
                await self._daemon.open(role, config, listeners)
            except AgentError as error:
                raise _refused(error) from None

        # The same port in two networks is two places.
        where = config.hub.socket if bind is None else f"{config.gateway.bind} in {wanted.network}"
        return Plan(role.value, where, bind, opened, partial(self._daemon.close, role))


def _refused(error: AgentError) -> RefusedError:
    log.warning("a launcher is refused", extra={"code": error.code.name, "detail": error.detail})
    return RefusedError(text.EXIT_FAILED, text.told(error))
