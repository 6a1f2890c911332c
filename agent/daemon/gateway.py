"""The gateway role of this process: REST for workloads, in front of roles here or elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent import __version__
from agent.daemon.shared import Stops, log
from agent.serve.heartbeat import reachable
from agent.serve.rest.address import bind_tcp
from agent.serve.rest.app import build_app
from agent.serve.rest.listen import serve
from agent.serve.ttrpc.remote import RemoteAttester, RemoteHub

if TYPE_CHECKING:
    import socket

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
        self.rest_url = ""
        self.here = False
        """Whether this process can ask at that URL itself."""

    def connect(self, hub: HubPart | None, attester: AttesterPart | None) -> None:
        """Ask these roles of the process from now on; for None, the one behind the configured address."""
        self.front.hub = self._hub if hub is None else hub.role
        self.front.kept = None if hub is None else hub.role.kept
        self.front.attester = self._attester if attester is None else attester.role

    async def open(self, listener: socket.socket | None = None) -> None:
        """Serve.

        Args:
            listener: a listening TCP socket to serve instead of binding one; it may be in another network
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
        bound = listener or bind_tcp(self.settings.bind)
        host, port = bound.getsockname()[:2]
        self.rest_url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.here = reachable(bound)
        runner = await serve(app, bound, budget=self._shared.budget, metrics=self._shared.metrics)
        self._stops.add(runner.cleanup)
        log.info("listening", extra={"address": self.rest_url})

    async def close(self) -> None:
        """Stop serving; requests under way get a moment."""
        await self._stops.run()
