"""The hub role of this process, from its settings to its sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.daemon.shared import Place, Stops, log
from agent.errors import AgentError, ErrorCode
from agent.hub.hub import Hub
from agent.kbs.progress import work_in_background
from agent.kbs.resources import ResourceClient
from agent.serve.control import control_services
from agent.serve.ttrpc.remote import RemoteTokens
from agent.serve.ttrpc.services import cdh_services

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from agent.config import model
    from agent.daemon.attester import AttesterPart
    from agent.daemon.shared import Shared
    from agent.hub.provision import Provisioner
    from agent.kbs.token import TokenSource
    from agent.secret import Secret

_CHECKS = ("hub", "credentials")


class HubPart:
    """Built, not yet open.

    Args:
        shared: of the process.
        settings: the hub's.
        control: address of the operator's socket; empty: none.
        attester: of this process, when its tokens are the ones to use; None: ask at ``settings.aa_socket``.
    """

    def __init__(
        self, shared: Shared, settings: model.Hub, control: str, attester: AttesterPart | None
    ) -> None:
        self.place = Place(settings.socket)
        self._shared = shared
        self._settings = settings
        self._control = control
        self._attester = attester
        self._stops = Stops()
        resources, pauses, hurry = None, None, lambda: None
        if settings.kbs.url:
            client = shared.client(settings.kbs)
            pauses, hurry = client.pauses, client.pauses.hurry
            resources = ResourceClient(client, self._tokens(), shared.metrics, shared.skew)
        self.role = Hub(
            settings,
            resources,
            shared.metrics,
            clock=shared.clock,
            identity=lambda: "" if attester is None else attester.identity,
            hurry=hurry,
        )
        self._stops.add(self.role.close)
        self.front = shared.front(hub=self.role, attester=None if attester is None else attester.role)
        self.front.kept = self.role.kept
        self.grpc_address = ""
        self.provisioner: Provisioner | None = None
        if settings.credentials:
            from agent.hub.provision import Provisioner  # noqa: PLC0415  # for the few who have any

            until = None if pauses is None else pauses.until_answered
            self.provisioner = Provisioner(settings.credentials, self._fetch_credential, until_answered=until)
            shared.metrics.watch_credentials(self.provisioner.counts)

    def _tokens(self) -> TokenSource:
        if self._attester is not None and self._attester.session is not None:
            return self._attester.session
        remote = RemoteTokens(self._settings.aa_socket, self._shared.clock)
        self._stops.add(remote.close)
        return remote

    async def _fetch_credential(self, uri: str) -> Secret:
        work_in_background()
        # Through the front: audited, measured and logged like any other caller.
        return (await self.front.get_resource(self.front.call("file", "credentials"), uri)).secret

    async def open(self, listeners: Sequence[socket.socket] = ()) -> None:
        """Serve, and begin to fetch credentials.

        Raises:
            AgentError: CONFIG_INVALID for an address that cannot be bound.
        """
        services, budget = cdh_services(self.front), self._shared.budget
        self.place.listener = await self._stops.serve_ttrpc(self.place.address, services, budget, *listeners)
        await self._serve_control()
        await self._serve_grpc()
        self._shared.on_change = self.role.invalidate
        self._watch()
        if self.provisioner is not None:
            self._stops.add(self.provisioner.stop)
            self.provisioner.start()

    async def close(self) -> None:
        """Stop serving, and wipe what is kept."""
        if self._shared.on_change == self.role.invalidate:
            self._shared.on_change = None
        for name in _CHECKS:
            self._shared.health.remove(name)
        await self._stops.run()

    async def _serve_control(self) -> None:
        """The operator's socket; a guest that cannot have it serves all the same."""
        if not self._control:
            return
        try:
            services = control_services(self.front, self.role.resources)
            await self._stops.serve_ttrpc(self._control, services, self._shared.budget)
        except AgentError as error:
            log.warning("no control socket", extra={"code": error.code.name, "detail": error.detail})

    async def _serve_grpc(self) -> None:
        """For clients that speak no ttrpc, such as skopeo and containerd."""
        address = self._settings.grpc
        if not address:
            return
        from agent.serve.grpc.server import GrpcServer  # noqa: PLC0415  # for the few who have it
        from agent.serve.grpc.services import guest_services  # noqa: PLC0415

        services = guest_services(self.front, address, attester=self._attester is not None)
        server = GrpcServer(services, self._shared.budget)
        self.grpc_address = await server.start(address)
        self._stops.add(server.stop)
        log.info("listening", extra={"address": self.grpc_address})

    def _watch(self) -> None:
        health, settings = self._shared.health, self._settings
        if settings.kbc == "cc_kbc":
            health.add("hub", lambda: None if settings.kbs.url else ErrorCode.KBS_NOT_CONFIGURED.name)
        if self.provisioner is not None:
            health.add("credentials", self.provisioner.reason)
