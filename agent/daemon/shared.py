"""What the roles of one process have in common."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from agent.config import limits
from agent.errors import AgentError
from agent.http.budget import Budget
from agent.http.relief import Relief
from agent.kbs.client import KbsClient
from agent.kbs.skew import ClockSkew
from agent.observe.audit import Audit
from agent.observe.health import Health
from agent.observe.metrics import Metrics
from agent.observe.redact import ResourceNames
from agent.serve.front import Front
from agent.serve.sockets import BoundSocket, listen_unix, parse_address
from agent.serve.ttrpc.server import TtrpcServer

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from agent.clock import Clock
    from agent.config.model import Kbs, Observe
    from agent.roles import AttesterRole, HubRole
    from agent.serve.ttrpc.server import Services

log = logging.getLogger("coco.daemon")


class Stops(msgspec.Struct):
    """Things to stop, in reverse order of their start."""

    actions: list[Callable[[], Awaitable[None]]] = msgspec.field(default_factory=list)

    def add(self, action: Callable[[], Awaitable[None]]) -> None:
        """Do this too."""
        self.actions.append(action)

    async def run(self) -> None:
        """Stop everything, newest first. Safe to call twice."""
        while self.actions:
            await self.actions.pop()()

    async def serve_ttrpc(
        self, address: str, services: Services, budget: Budget, inherited: socket.socket | None = None
    ) -> socket.socket:
        """Serve at an address until :meth:`run`; the listening socket.

        Args:
            address: ``unix://<path>``.
            services: what is offered there.
            budget: of the process.
            inherited: a listening socket to serve instead of binding one; its file is its maker's.

        Raises:
            AgentError: CONFIG_INVALID for an address that cannot be bound.
        """
        listener = inherited or listen_unix(address)
        server = TtrpcServer(services, budget)
        await server.start(listener)

        async def stop() -> None:
            if isinstance(listener, BoundSocket):
                listener.unlink()
            await server.stop()

        self.add(stop)
        log.info("listening", extra={"address": address})
        return listener


class Place(msgspec.Struct):
    """Where a role is served.

    Attributes:
        address: ``unix://<path>``.
        listener: None until it is.
    """

    address: str
    listener: socket.socket | None = None

    def is_at(self, address: str) -> bool:
        """Whether who connects to an address comes here: the file may be another program's by now."""
        if isinstance(self.listener, BoundSocket) and not self.listener.is_named():
            return False
        try:
            return parse_address(self.address) == parse_address(address)
        except AgentError:
            return False


class Shared:
    """Clock, instruments and connections of one process; roles come and go.

    Args:
        observe: the logs' settings, of whoever started the process.
        clock: injected in tests.
    """

    def __init__(self, observe: Observe, clock: Clock) -> None:
        self.clock = clock
        self.metrics = Metrics()
        self.health = Health()
        self.skew = ClockSkew(clock)
        self.metrics.watch_clock(self.skew.offset)
        self.relief = Relief()
        self.budget = Budget(limits.BUDGET, limits.BUDGET_RESERVE, limits.RELIEF_BYTES, self.relief.soon)
        self.metrics.watch_held(lambda: self.budget.used)
        self.stops = Stops()
        self._audit = Audit(ResourceNames(observe.log_resource_names))
        self._clients: dict[Kbs, KbsClient] = {}
        self.on_change: Callable[[str], None] | None = None
        """Told what changed about this guest that the broker may judge it by; the open hub's."""

    def client(self, settings: Kbs) -> KbsClient:
        """One client, so one pool of connections, per broker."""
        client = self._clients.get(settings)
        if client is None:
            client = KbsClient(settings, self.clock, self.metrics, skew=self.skew)
            self._clients[settings] = client
            self.stops.add(client.close)
        return client

    def front(self, *, hub: HubRole | None = None, attester: AttesterRole | None = None) -> Front:
        """What one role's listeners ask."""
        return Front(
            hub=hub,
            attester=attester,
            metrics=self.metrics,
            audit=self._audit,
            clock=self.clock,
            changed=self._changed,
        )

    def _changed(self, reason: str) -> None:
        if self.on_change is not None:
            self.on_change(reason)
