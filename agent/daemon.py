"""The composition root: builds the parts from a configuration, starts them, stops them.

Nothing is wired anywhere else. The daemon needs no network, no clock and no broker to start: it listens
first and attests when somebody asks.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import platform as machine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent import __version__
from agent.attester import LocalAttester
from agent.clock import Deadline, SystemClock
from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.hub.hub import Hub
from agent.hub.provision import Provisioner
from agent.kbs.client import KbsClient
from agent.kbs.resources import ResourceClient
from agent.kbs.session import Session
from agent.kbs.skew import ClockSkew
from agent.observe.audit import Audit
from agent.observe.health import Health
from agent.observe.metrics import Metrics
from agent.observe.redact import ResourceNames
from agent.serve.control import control_services
from agent.serve.front import Front
from agent.serve.grpc.server import GrpcServer
from agent.serve.grpc.services import guest_services
from agent.serve.rest.app import build_app
from agent.serve.rest.listen import bind_tcp, serve
from agent.serve.sockets import listen_unix
from agent.serve.ttrpc.remote import RemoteAttester, RemoteHub, RemoteTokens
from agent.serve.ttrpc.server import TtrpcServer
from agent.serve.ttrpc.services import aa_services, cdh_services
from agent.tee.attesters import DeviceAttester
from agent.tee.eventlog import MeasuredEvidence, Measurer
from agent.tee.evidence_source import GuestEvidence, select
from agent.tee.platform import detect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.clock import Clock
    from agent.config.model import Config, Kbs
    from agent.kbs.token import TokenSource
    from agent.roles import AttesterRole, HubRole
    from agent.secret import Secret
    from agent.serve.ttrpc.server import Services
    from agent.tee.base import EvidenceSource

log = logging.getLogger("coco.daemon")


class Role(enum.Enum):
    """What one process serves."""

    ATTESTER = "attester"
    HUB = "hub"
    GATEWAY = "gateway"


ALL_ROLES = frozenset(Role)


@dataclass(slots=True)
class _Stops:
    """Things to stop, in reverse order of their start."""

    actions: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def run(self) -> None:
        while self.actions:
            await self.actions.pop()()


class Daemon:
    """The roles of one process, from start to stop."""

    def __init__(
        self,
        config: Config,
        roles: frozenset[Role] = ALL_ROLES,
        *,
        clock: Clock | None = None,
        init_data: str | None = None,
        evidence: EvidenceSource | None = None,
    ) -> None:
        """Build the parts; nothing is opened yet.

        Args:
            config: the effective configuration.
            roles: which roles to serve; the others are reached by their sockets.
            clock: injected in tests.
            init_data: TOML text to send with every attestation, verified by the caller.
            evidence: injected in tests; detected from the platform otherwise.
        """
        self.config = config
        self.roles = roles
        self.metrics = Metrics()
        self._clock = clock or SystemClock()
        self._init_data = init_data
        self._stops = _Stops()
        self._clients: dict[Kbs, KbsClient] = {}
        self._skew = ClockSkew(self._clock)
        self.metrics.watch_clock(self._skew.offset)
        self._rest_url = ""
        self._grpc_address = ""
        self.session: Session | None = None
        self.evidence = evidence
        if self.evidence is None and Role.ATTESTER in roles:
            trail = detect(config.attester.sysroot, os.environ, machine.machine(), config.attester)
            self.evidence = select(trail, config.attester, self.metrics)
        self.measurer: Measurer | None = None
        self.attester = self._build_attester()
        self.hub = self._build_hub()
        self.provisioner = self._build_provisioner()
        self.health = self._build_health()
        self.front = Front(
            hub=self.hub,
            attester=self.attester,
            metrics=self.metrics,
            audit=Audit(ResourceNames(config.observe.log_resource_names)),
            clock=self._clock,
            kept=self.hub.kept if isinstance(self.hub, Hub) else None,
            changed=self.hub.invalidate if isinstance(self.hub, Hub) else None,
        )

    # --- building ---------------------------------------------------------------------------------
    def _client(self, settings: Kbs) -> KbsClient:
        """One client, so one pool of connections, per broker."""
        client = self._clients.get(settings)
        if client is None:
            client = self._clients[settings] = KbsClient(settings, self._clock, self.metrics, skew=self._skew)
            self._stops.actions.append(client.close)
        return client

    def _build_attester(self) -> AttesterRole | None:
        if Role.ATTESTER in self.roles:
            if self.evidence is None:
                raise AssertionError("the attester role has an evidence source")
            settings = self.config.attester
            self.measurer = Measurer(_measuring(self.evidence), settings)
            measured = MeasuredEvidence(self.evidence, self.measurer)
            if settings.kbs.url:
                client = self._client(settings.kbs)
                self.session = Session(
                    client,
                    measured,
                    settings.key_algorithm,
                    self._clock,
                    self.metrics,
                    endpoints=tuple(server.url for server in settings.kbs.servers()),
                    init_data=self._init_data,
                    measured=self.measurer.count,
                    refresh_while_used=settings.refresh_while_used,
                    retry_for=settings.kbs.retry_for,
                    trouble=client.trouble,
                )
                self._stops.actions.append(self.session.close)
                self.metrics.watch_token(self.session.seconds_left)
            return LocalAttester(measured, self.session, self.measurer)
        if Role.GATEWAY in self.roles:
            remote = RemoteAttester(self.config.gateway.aa_address)
            self._stops.actions.append(remote.close)
            return remote
        return None

    def _build_hub(self) -> HubRole | None:
        if Role.HUB in self.roles:
            settings = self.config.hub
            resources = None
            if settings.kbs.url:
                client = self._client(settings.kbs)
                resources = ResourceClient(client, self._tokens(), self.metrics, self._skew)
            hub = Hub(settings, resources, self.metrics, clock=self._clock, identity=self._identity)
            self._stops.actions.append(hub.close)
            return hub
        if Role.GATEWAY in self.roles:
            remote = RemoteHub(self.config.gateway.cdh_address)
            self._stops.actions.append(remote.close)
            return remote
        return None

    def _build_provisioner(self) -> Provisioner | None:
        credentials = self.config.hub.credentials
        if Role.HUB not in self.roles or not credentials:
            return None
        provisioner = Provisioner(credentials, self._fetch_credential)
        self.metrics.watch_credentials(provisioner.counts)
        return provisioner

    async def _fetch_credential(self, uri: str) -> Secret:
        # Through the front: audited, measured and logged like any other caller.
        return (await self.front.get_resource(self.front.call("file", "credentials"), uri)).secret

    def _identity(self) -> str:
        """What the broker judges this guest by; empty while nothing is known."""
        return "" if self.session is None else self.session.identity

    def _tokens(self) -> TokenSource:
        if self.session is not None:
            return self.session
        remote = RemoteTokens(self.config.hub.aa_socket, self._clock)
        self._stops.actions.append(remote.close)
        return remote

    # --- running ----------------------------------------------------------------------------------
    async def start(self) -> None:
        """Open the sockets of all roles; each becomes visible only once it is listening.

        Raises:
            AgentError: CONFIG_INVALID for an address that cannot be bound. Nothing stays open.
        """
        try:
            if Role.ATTESTER in self.roles:
                await self._serve_ttrpc(self.config.attester.socket, aa_services(self.front))
            if Role.HUB in self.roles:
                await self._serve_ttrpc(self.config.hub.socket, cdh_services(self.front))
                await self._serve_control()
                await self._serve_grpc()
            if Role.GATEWAY in self.roles:
                await self._serve_rest()
        except BaseException:
            await self.stop()
            raise
        self.health.started()
        self._report()
        self._probe_registers()
        if self.provisioner is not None:
            self._stops.actions.append(self.provisioner.stop)
            self.provisioner.start()

    async def stop(self) -> None:
        """Close everything, newest first. Safe to call twice."""
        self.health.stopping()
        await self._stops.run()

    @property
    def rest_url(self) -> str:
        """Base URL of the REST API, with the port that was really bound."""
        return self._rest_url

    @property
    def grpc_address(self) -> str:
        """Address of the gRPC services, with the port that was really bound; empty when there are none."""
        return self._grpc_address

    async def _serve_ttrpc(self, address: str, services: Services) -> None:
        listener = listen_unix(address)
        server = TtrpcServer(services)
        await server.start(listener)

        async def stop() -> None:
            listener.unlink()
            await server.stop()

        self._stops.actions.append(stop)
        log.info("listening", extra={"address": address})

    async def _serve_control(self) -> None:
        """The operator's socket; a guest that cannot have it serves all the same."""
        address = self.config.control.socket
        if not address or not isinstance(self.hub, Hub):
            return
        try:
            await self._serve_ttrpc(address, control_services(self.front, self.hub.resources))
        except AgentError as error:
            log.warning("no control socket", extra={"code": error.code.name, "detail": error.detail})

    async def _serve_grpc(self) -> None:
        """For clients that speak no ttrpc, such as skopeo and containerd."""
        address = self.config.hub.grpc
        if not address:
            return
        server = GrpcServer(guest_services(self.front, address, attester=Role.ATTESTER in self.roles))
        self._grpc_address = await server.start(address)
        self._stops.actions.append(server.stop)
        log.info("listening", extra={"address": self._grpc_address})

    async def _serve_rest(self) -> None:
        settings = self.config.gateway
        app = build_app(
            self.front,
            settings,
            metrics=self.metrics if self.config.observe.metrics else None,
            health=self.health,
            version=__version__,
        )
        listener = bind_tcp(settings.bind)
        host, port = listener.getsockname()[:2]
        self._rest_url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        runner = await serve(app, listener)
        self._stops.actions.append(runner.cleanup)
        log.info("listening", extra={"address": self._rest_url})

    def _probe_registers(self) -> None:
        """Beside everything else: a slow device holds up no socket."""
        if self.measurer is None:
            return
        deadline = Deadline.after(self._clock, limits.EVIDENCE_DEADLINE)
        task = asyncio.create_task(self.measurer.prepare(deadline))

        async def stop() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stops.actions.append(stop)

    # --- what an operator sees --------------------------------------------------------------------
    def _build_health(self) -> Health:
        health = Health()
        evidence, session, config = self.evidence, self.session, self.config
        if evidence is not None:
            health.add("platform", lambda: _reason(evidence))
            health.add("kbs", lambda: None if session else ErrorCode.KBS_NOT_CONFIGURED.name)
        if session is not None:
            health.add("attestation", lambda: session.last_failure and session.last_failure.name)
        if Role.HUB in self.roles and config.hub.kbc == "cc_kbc":
            health.add("hub", lambda: None if config.hub.kbs.url else ErrorCode.KBS_NOT_CONFIGURED.name)
        if self.provisioner is not None:
            health.add("credentials", self.provisioner.reason)
        return health

    def _report(self) -> None:
        """Say once, at start, what an operator would otherwise find out at 3 a.m."""
        for warning in self.config.warnings:
            log.warning("configuration", extra={"reason": warning})
        if self.evidence is None:
            return
        try:
            tee = self.evidence.tee
        except AgentError as error:
            log.error(  # noqa: TRY400  # the refusal itself, not where it was raised
                "no evidence", extra={"code": error.code.name, "detail": error.detail, "hint": error.hint}
            )
            return
        if tee == "sample":
            log.warning("SAMPLE EVIDENCE is allowed: this guest proves nothing", extra={"tee": tee})
        else:
            log.info("platform", extra={"tee": tee})


def _measuring(evidence: EvidenceSource) -> DeviceAttester | None:
    """The TEE whose registers can be extended, if any."""
    attester = evidence.attester if isinstance(evidence, GuestEvidence) else None
    return attester if isinstance(attester, DeviceAttester) else None


def _reason(evidence: EvidenceSource) -> str | None:
    try:
        return None if evidence.tee else ErrorCode.NO_TEE.name
    except AgentError as error:
        return error.code.name
