"""The roles of one process, from start to stop.

The daemon needs no network, no clock and no broker to start: it listens first and attests when somebody
asks. Roles can be opened and closed while it runs: kata-agent starts three programs in order, and the later
ones hand their role to the first (``agent/cli/launch.py``).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from agent.clock import SystemClock
from agent.daemon.attester import AttesterPart
from agent.daemon.shared import Shared, log
from agent.errors import AgentError, ErrorCode
from agent.roles import ALL_ROLES, Role
from agent.serve.heartbeat import Addresses

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from agent.clock import Clock
    from agent.config.model import Config
    from agent.daemon.gateway import GatewayPart
    from agent.daemon.hub import HubPart
    from agent.tee.base import EvidenceSource


class _Part(Protocol):
    async def open(self, listeners: Sequence[socket.socket] = ()) -> None: ...
    async def close(self) -> None: ...


class Daemon:
    """The roles of one process.

    Attributes:
        config: of whoever started the process. A role opened later has its own.
        attester: the part, while it is there; likewise ``hub`` and ``gateway``.
    """

    def __init__(
        self,
        config: Config,
        roles: frozenset[Role] = ALL_ROLES,
        *,
        clock: Clock | None = None,
        init_data: str | None = None,
        evidence: EvidenceSource | None = None,
        listeners: Mapping[Role, Sequence[socket.socket]] = MappingProxyType({}),
    ) -> None:
        """Build the parts; nothing is opened yet.

        Args:
            config: the effective configuration.
            roles: which roles to serve; the others are reached by their sockets.
            clock: injected in tests.
            init_data: TOML text to send with every attestation, verified by the caller.
            evidence: injected in tests; detected from the platform otherwise.
            listeners: listening sockets that somebody else made for these roles.
        """
        self.config = config
        self._shared = Shared(config.observe, clock or SystemClock())
        self._listeners = dict(listeners)
        self._warned: set[str] = set()
        self.attester: AttesterPart | None = None
        self.hub: HubPart | None = None
        self.gateway: GatewayPart | None = None
        if Role.ATTESTER in roles:
            settings = config.attester
            self.attester = AttesterPart(self._shared, settings, init_data=init_data, evidence=evidence)
        if Role.HUB in roles:
            self.hub = self._build_hub(config, self.attester)
        if Role.GATEWAY in roles:
            self.gateway = self._build_gateway(config)
            self.gateway.connect(self.hub, self.attester)

    def _build_hub(self, config: Config, attester: AttesterPart | None) -> HubPart:
        from agent.daemon.hub import HubPart  # noqa: PLC0415  # an attester alone does not pay for it

        return HubPart(self._shared, config.hub, config.control.socket, attester)

    def _build_gateway(self, config: Config) -> GatewayPart:
        from agent.daemon.gateway import GatewayPart  # noqa: PLC0415  # others do not pay for HTTP

        return GatewayPart(self._shared, config)

    async def start(self) -> None:
        """Open the sockets of all roles; each becomes visible only once it is listening.

        Raises:
            AgentError: CONFIG_INVALID for an address that cannot be bound. Nothing stays open.
        """
        parts: dict[Role, _Part | None] = {
            Role.ATTESTER: self.attester,
            Role.HUB: self.hub,
            Role.GATEWAY: self.gateway,
        }
        self._warn(self.config)
        try:
            for role, part in parts.items():
                if part is not None:
                    await part.open(self._listeners.pop(role, ()))
        except BaseException:
            await self.stop()
            raise
        self._shared.health.started()

    async def open(self, role: Role, config: Config, listeners: Sequence[socket.socket] = ()) -> None:
        """Open the hub or the gateway with a configuration of its own, in place of the one that is open.

        It uses the roles of this process that are served where its configuration looks for them.

        Args:
            role: not the attester, which init-data is bound to before the process serves anything.
            config: of this role.
            listeners: see the parts.

        Raises:
            AgentError: CONFIG_INVALID; then the role is not open.
        """
        self._warn(config)
        if role is Role.HUB:
            attester = self.attester
            if attester is not None and not attester.place.is_at(config.hub.aa_socket):
                attester = None
            hub = self._build_hub(config, attester)
            await self.close(role)
            await _opened(hub, listeners)
            self.hub = hub
            self._connect(self.gateway)
        elif role is Role.GATEWAY:
            gateway = self._build_gateway(config)
            self._connect(gateway)
            await self.close(role)
            await _opened(gateway, listeners)
            self.gateway = gateway
        else:
            raise AgentError(ErrorCode.CONFIG_INVALID, "the attester role is not opened later")

    async def close(self, role: Role) -> None:
        """Close the hub or the gateway, if it is open; the others go on."""
        if role is Role.HUB and self.hub is not None:
            hub, self.hub = self.hub, None
            self._connect(self.gateway)
            await hub.close()
        elif role is Role.GATEWAY and self.gateway is not None:
            gateway, self.gateway = self.gateway, None
            await gateway.close()

    def _connect(self, gateway: GatewayPart | None) -> None:
        """Have a gateway ask the roles of this process that are where it looks for them."""
        if gateway is None:
            return
        hub, attester, settings = self.hub, self.attester, gateway.settings
        if hub is not None and not hub.place.is_at(settings.cdh_address):
            hub = None
        if attester is not None and not attester.place.is_at(settings.aa_address):
            attester = None
        gateway.connect(hub, attester)

    def _warn(self, config: Config) -> None:
        """Say once what an operator would otherwise find out at 3 a.m.: roles read some files alike."""
        for warning in config.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                log.warning("configuration", extra={"reason": warning})

    async def stop(self) -> None:
        """Close everything, newest first. Safe to call twice."""
        self._shared.health.stopping()
        for part in (self.gateway, self.hub, self.attester):
            if part is not None:
                await part.close()
        await self._shared.stops.run()

    @property
    def rest_url(self) -> str:
        """Base URL of the REST API, with the port that was really bound; empty without a gateway."""
        urls = () if self.gateway is None else self.gateway.rest_urls
        return urls[0] if urls else ""

    @property
    def grpc_address(self) -> str:
        """Address of the gRPC services, with the port that was really bound; empty when there are none."""
        return "" if self.hub is None else self.hub.grpc_address

    def addresses(self) -> Addresses:
        """Where the open roles can be asked, by this process itself."""
        served = [part.place.address for part in (self.attester, self.hub) if part is not None]
        rest = self.gateway.rest_urls if self.gateway is not None and self.gateway.here else ()
        return Addresses(rest=rest, ttrpc=tuple(served))


async def _opened(part: _Part, listeners: Sequence[socket.socket]) -> None:
    try:
        await part.open(listeners)
    except BaseException:
        await part.close()
        raise
