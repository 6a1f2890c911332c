"""The gateway role of this process: REST for workloads, in front of roles here or elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent import __version__
from agent.daemon.shared import Stops, log
from agent.handover import unheld
from agent.serve.heartbeat import reachable
from agent.serve.rest.address import bind_tcp
from agent.serve.rest.app import build_app
from agent.serve.rest.listen import serve
from agent.serve.ttrpc.remote import RemoteAttester, RemoteHub

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from agent.config.model import Config
    from agent.daemon.attester import AttesterPart
    from agent.daemon.hub import HubPart
    from agent.daemon.shared import Shared


class GatewayPart:
    """Built, not yet open.

    Args:
        shared: of the process.
        config: whose gateway it is.
    """

    def __init__(self, shared: Shared, config: Config) -> None:
        self.settings = config.gateway
        self._metrics = config.observe.metrics
        self._shared = shared
        self._stops = Stops()
        self._hub = RemoteHub(self.settings.cdh_address)
        self._attester = RemoteAttester(self.settings.aa_address)
        self._stops.add(self._hub.close)
        self._stops.add(self._attester.close)
        self.front = shared.front(hub=self._hub, attester=self._attester)
        self.rest_urls: tuple[str, ...] = ()
        """The address of the configuration first."""
        self.here = False
        """Whether this process can ask at those URLs itself."""

    def connect(self, hub: HubPart | None, attester: AttesterPart | None) -> None:
        """Ask these roles of the process from now on; for None, the one behind the configured address."""
        self.front.hub = self._hub if hub is None else hub.role
        self.front.kept = None if hub is None else hub.role.kept
        self.front.attester = self._attester if attester is None else attester.role

    async def open(self, listeners: Sequence[socket.socket] = ()) -> None:
        """Serve.

        Args:
            listeners: listening TCP sockets to serve instead of binding them; they may be in another network
                namespace.

        Raises:
            AgentError: CONFIG_INVALID for an address that cannot be bound.
        """
        app = build_app(
            self.front,
            self.settings,
            metrics=self._shared.metrics if self._metrics else None,
            health=self._shared.health,
            version=__version__,
        )
        bound = listeners or bind_tcp(self.settings.bind)
        self.rest_urls = tuple(_url(*listener.getsockname()[:2]) for listener in bound)
        self.here = reachable(bound[0])
        shared = self._shared
        running = await serve(app, *bound, budget=shared.budget, relief=shared.relief, metrics=shared.metrics)
        self._stops.add(running.cleanup)
        for url in self.rest_urls:
            log.info("listening", extra={"address": url})
        for address in unheld(bound):
            log.info("not listening: localhost has no such address here", extra={"address": _url(*address)})

    async def close(self) -> None:
        """Stop serving; requests under way get a moment."""
        await self._stops.run()


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
