"""One agent and one broker that can be made to fail, and callers of every API that measure what they get."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import socket
import struct
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent.config.model import (
    Attester,
    Config,
    Control,
    Features,
    Gateway,
    Hub,
    Kbs,
    KbsServer,
    SealedSecrets,
)
from agent.daemon import Daemon
from agent.devkit import pki
from agent.devkit.kbs import DevKbs
from agent.devkit.sample import SampleAttester
from agent.errors import AgentError, ErrorCode
from agent.hub.image_keys import wrap
from agent.hub.image_packets import build_protocol_input
from agent.hub.sealing import keygen, seal_vault
from agent.protos import attestation_agent_pb2 as aa
from agent.protos import confidential_data_hub_pb2 as cdh
from agent.protos import keyprovider_pb2 as kp
from agent.roles import Role
from agent.tee.evidence_source import GuestEvidence
from tests.integration import mini_ttrpc
from tests.integration.support import http
from tests.integration.test_canary import Canaries

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from agent.clock import Deadline
    from agent.devkit.kbs import Settings
    from tests.integration.faults.process import Lag

REST_RESOURCE = "REST resource"
REST_TOKEN = "REST token"
RESOURCE = "GetResource"
UNSEAL = "UnsealSecret"
UNWRAP = "UnWrapKey"
TOKEN = "GetToken"
APIS = (REST_RESOURCE, RESOURCE, UNSEAL, UNWRAP, REST_TOKEN, TOKEN)
TOKEN_APIS = frozenset({REST_TOKEN, TOKEN})

SAID = re.compile(r"\(([A-Z_]+), request ([0-9a-f]{16})\)\Z")
UNRESOLVABLE = ".invalid"
"""No such name resolves (RFC 6761 6.4), unless ``process.names`` says otherwise."""


# --- what is asked for ----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Material:
    """A resource, a sealed secret that leads to it, and a wrapped image key."""

    path: str
    plaintext: bytes
    sealed: bytes
    key_request: bytes
    symkey: str


def prepare(kbs: DevKbs, name: str, canaries: Canaries, *more: DevKbs) -> Material:
    """Make and upload; every secret carries a mark and is noted."""
    kid, path, kek_path = f"kbs:///signing/{name}/1", f"default/{name}/1", f"kek/{name}/1"
    private, public = keygen(kid)
    plaintext = f"CANARY-{name}-{secrets.token_hex(8)}".encode()
    kek = secrets.token_bytes(32)
    symkey = base64.b64encode(secrets.token_bytes(32)).decode()
    packet = wrap(json.dumps({"symkey": symkey}).encode(), kek, f"kbs:///{kek_path}")
    for broker in (kbs, *more):
        broker.put(path, plaintext)
        broker.put(f"signing/{name}/1", public)
        broker.put(kek_path, kek)
    for secret in (plaintext, kek, symkey.encode(), json.loads(private.reveal())["d"].encode()):
        canaries.add(secret)
    sealed = seal_vault(f"kbs:///{path}", kid, private.reveal())
    return Material(path, plaintext, sealed.encode(), build_protocol_input(packet), symkey)


# --- what comes back ------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call gave.

    Attributes:
        api: one of :data:`APIS`.
        code: name of the error code; empty for success; ``untyped`` when there was none.
        status: REST or RPC status.
        request_id: of the error.
        seconds: until the answer.
        late: seconds of them that this process's event loop was busy or not scheduled.
        text: everything of an error's answer, headers included; empty for success.
        value: of a success.
    """

    api: str
    code: str
    status: int
    request_id: str
    seconds: float
    late: float
    text: str = ""
    value: bytes = field(default=b"", repr=False)

    def in_time(self, deadline: float) -> bool:
        """Within the deadline and 5 %, apart from time this machine did not give us."""
        return self.seconds <= deadline * 1.05 + self.late + 0.05

    def right_status(self) -> bool:
        """Whether the status is the documented one of the code."""
        if not self.code:
            return self.status == (200 if self.api in {REST_RESOURCE, REST_TOKEN} else 0)
        meaning = ErrorCode[self.code].meaning
        return self.status == (meaning.rest if self.api in {REST_RESOURCE, REST_TOKEN} else meaning.rpc)


async def ttrpc(
    address: str, service: str, method: str, payload: bytes, seconds: float
) -> tuple[int, str, bytes]:
    """One call on a connection of its own: see :func:`ask`."""
    reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix://"))
    try:
        return await ask(reader, writer, 1, mini_ttrpc.request(service, method, payload, int(seconds * 1e9)))
    finally:
        writer.close()


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: int, body: bytes
) -> tuple[int, str, bytes]:
    """Status, message and payload; waits longer than it tells the agent."""
    writer.write(mini_ttrpc.frame(stream, body))
    length, *_ = struct.unpack(">IIBB", await reader.readexactly(10))
    answer = mini_ttrpc.fields(await reader.readexactly(length))
    raw, value = answer.get(1, b""), answer.get(2, b"")
    assert isinstance(raw, bytes)
    assert isinstance(value, bytes)
    status = mini_ttrpc.fields(raw)
    code, message = status.get(1, 0), status.get(2, b"")
    assert isinstance(code, int)
    assert isinstance(message, bytes)
    return code, message.decode(), value


class FaultyAttester(SampleAttester):
    """Evidence that can hang or fail."""

    def __init__(self) -> None:
        self.hangs = self.fails = False

    async def collect(self, report_data: bytes, deadline: Deadline) -> bytes:
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise AgentError(ErrorCode.EVIDENCE_FAILED, "sample: switched off")
        return await super().collect(report_data, deadline)


class Closable(Protocol):
    """Whatever is in the broker's place."""

    def close(self) -> None: ...


class Nothing:
    """Nobody is in the broker's place, or the broker itself with another face."""

    def close(self) -> None:
        pass


class Stage:
    """An agent, its broker, and the switches of both.

    Attributes:
        kbs: the broker.
        evidence: the guest's TEE.
        canaries: secrets that must turn up nowhere.
    """

    def __init__(
        self,
        lag: Lag,
        known_names: set[str],
        *,
        settings: Settings | None = None,
        secure: bool = False,
        pinned: bool = False,
        named: bool = False,
        split: bool = False,
        spared: bool = False,
    ) -> None:
        self.kbs = DevKbs(settings)
        self.spare = DevKbs(settings) if spared else None
        self.split = split
        self.evidence = FaultyAttester()
        self.canaries = Canaries()
        self.lag = lag
        self.pinned = pinned
        self.named = named
        self.host = f"broker-{secrets.token_hex(4)}{UNRESOLVABLE}"
        self.authority = pki.Authority() if secure else None
        self.identity = None if self.authority is None else self.authority.issue()
        self.tls: ssl.SSLContext | None = None if self.identity is None else self.identity.context()
        self.hub_socket = self.attester_socket = self.rest = ""
        self.impostor: Closable | None = None
        self.known_names = known_names
        self._plugs: list[socket.socket] = []

    @property
    def brokers(self) -> list[DevKbs]:
        """One or two; they hold the same."""
        return [self.kbs] if self.spare is None else [self.kbs, self.spare]

    # --- life -------------------------------------------------------------------------------------
    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stage]:
        with tempfile.TemporaryDirectory(prefix="coco-fault-") as folder:
            real = Path(folder).resolve()
            self.hub_socket, self.attester_socket = f"unix://{real}/cdh.sock", f"unix://{real}/aa.sock"
            await self.kbs.start(tls=self.tls)
            self.known_names.add(self.host)
            if self.spare is not None:
                await self.spare.start()
                self.kbs.trust(self.spare.signer)
                self.spare.trust(self.kbs.signer)
            daemons = self._daemons(self._config(str(real)))
            try:
                for daemon in daemons:
                    await daemon.start()
                self.rest = daemons[-1].rest_url
                yield self
            finally:
                for daemon in reversed(daemons):
                    await daemon.stop()
                await self.restore()
                await self.kbs.stop()
                if self.spare is not None:
                    await self.spare.stop()

    def _daemons(self, config: Config) -> list[Daemon]:
        evidence = GuestEvidence(self.evidence, (), None)
        if not self.split:
            return [Daemon(config, evidence=evidence)]
        # As kata-agent starts them: one role each, connected by their sockets.
        return [
            Daemon(config, frozenset({Role.ATTESTER}), evidence=evidence),
            Daemon(config, frozenset({Role.HUB})),
            Daemon(config, frozenset({Role.GATEWAY})),
        ]

    def _config(self, folder: str) -> Config:
        url = self.kbs.url.replace("127.0.0.1", self.host) if self.named else self.kbs.url
        roots = "" if self.authority is None else self.authority.pem
        pins = (self.identity.pin,) if self.identity is not None and self.pinned else ()
        others = () if self.spare is None else (KbsServer(url), KbsServer(self.spare.url))
        broker = Kbs(url=url, extra_roots=roots, pins=pins, endpoints=others)
        return Config(
            attester=Attester(socket=self.attester_socket, kbs=broker, allow_sample=True),
            hub=Hub(
                socket=self.hub_socket,
                kbc="cc_kbc",
                kbs=broker,
                aa_socket=self.attester_socket,
                sealed=SealedSecrets(key_dir=folder),
            ),
            gateway=Gateway(
                bind="127.0.0.1:0",
                features=Features.ALL,
                cdh_address=self.hub_socket,
                aa_address=self.attester_socket,
            ),
            control=Control(""),
        )

    # --- the broker's place ------------------------------------------------------------------------
    async def replace_broker(self, tls: ssl.SSLContext | None) -> None:
        """The broker again, with another identity."""
        port = self.kbs.port
        await self.remove_broker()
        await self.kbs.start(port=port, tls=tls)

    async def remove_broker(self) -> None:
        """Nobody listens any more."""
        await self.kbs.stop()
        self.impostor = Nothing()

    async def talk_instead(self, greeting: bytes) -> None:
        """Something else in the broker's place: it says this much, then listens for ever."""

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                writer.write(greeting)
                while await reader.read(65536):
                    pass
            except ConnectionError:
                pass
            finally:
                writer.close()

        port = self.kbs.port
        await self.kbs.stop()
        self.impostor = await asyncio.start_server(silent, "127.0.0.1", port)

    async def swallow_connections(self) -> None:
        """Nothing answers a SYN any more: the accept queue in the broker's place is full."""
        port = self.kbs.port
        await self.kbs.stop()
        self.impostor = listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(4):
            plug = socket.socket()
            plug.setblocking(False)
            plug.connect_ex(("127.0.0.1", port))
            self._plugs.append(plug)

    async def restore(self) -> None:
        """The true broker, well again."""
        self.kbs.faults.clear()
        if self.spare is not None:
            self.spare.faults.clear()
            if not self.spare.listening:
                await self.spare.start(port=self.spare.port)
        self.evidence.hangs = self.evidence.fails = False
        self.known_names.add(self.host)
        while self._plugs:
            self._plugs.pop().close()
        await self.come_back()

    async def come_back(self) -> None:
        """The true broker in its place, faults as they are."""
        if self.impostor is None:
            return
        port, impostor = self.kbs.port, self.impostor
        self.impostor = None
        impostor.close()
        await self.kbs.stop()
        await self.kbs.start(port=port, tls=self.tls)

    # --- callers ----------------------------------------------------------------------------------
    async def call(self, api: str, material: Material, seconds: int) -> Outcome:
        """One call that waits ``seconds``."""
        began, lost = time.perf_counter(), self.lag.lost
        try:
            async with asyncio.timeout(seconds * 2 + 20):
                if api in {REST_RESOURCE, REST_TOKEN}:
                    found = await self._rest(api, material, seconds)
                else:
                    found = await self._rpc(api, material, seconds)
        except (TimeoutError, OSError, EOFError) as error:
            found = ("untyped", 0, "", repr(error), b"")
        code, status, request_id, text, value = found
        took = time.perf_counter() - began
        return Outcome(api, code, status, request_id, took, self.lag.lost - lost, text, value)

    async def every_api(self, material: Material, seconds: int) -> dict[str, Outcome]:
        """All of them at once."""
        outcomes = await asyncio.gather(*(self.call(api, material, seconds) for api in APIS))
        return {outcome.api: outcome for outcome in outcomes}

    async def _rest(self, api: str, material: Material, seconds: int) -> tuple[str, int, str, str, bytes]:
        target = f"/cdh/resource/{material.path}" if api == REST_RESOURCE else "/aa/token?token_type=kbs"
        headers = {"Accept": "application/json", "Prefer": f"wait={seconds}"}
        answer = await http(self.rest + target, headers=headers)
        if answer.status == 200:
            return "", 200, "", "", answer.body
        text = f"{answer.headers}{answer.body!r}"
        problem = answer.json()
        return str(problem["code"]), answer.status, str(problem["request_id"]), text, b""

    async def _rpc(self, api: str, material: Material, seconds: int) -> tuple[str, int, str, str, bytes]:
        payload: bytes
        address = self.hub_socket
        match api:
            case "GetResource":
                service = "api.GetResourceService"
                payload = cdh.GetResourceRequest(ResourcePath=f"kbs:///{material.path}").SerializeToString()
            case "UnsealSecret":
                service = "api.SealedSecretService"
                payload = cdh.UnsealSecretInput(secret=material.sealed).SerializeToString()
            case "UnWrapKey":
                service = "keyprovider.KeyProviderService"
                request = kp.KeyProviderKeyWrapProtocolInput(
                    KeyProviderKeyWrapProtocolInput=material.key_request
                )
                payload = request.SerializeToString()
            case _:
                service, address = "attestation_agent.AttestationAgentService", self.attester_socket
                payload = aa.GetTokenRequest(TokenType="kbs").SerializeToString()
        status, message, answer = await ttrpc(address, service, api, payload, seconds)
        if status == 0:
            field_one = mini_ttrpc.fields(answer).get(1, b"")
            assert isinstance(field_one, bytes)
            return "", 0, "", "", field_one
        said = SAID.search(message)
        return said[1] if said else "untyped", status, said[2] if said else "", message, b""


def right(api: str, value: bytes, material: Material) -> bool:
    """Whether a success is the secret that was asked for."""
    if api in TOKEN_APIS:
        held = json.loads(value)
        return bool(held["token"].count(".") == 2 and "BEGIN PRIVATE KEY" in held["tee_keypair"])
    if api == UNWRAP:
        options = bytes(json.loads(value)["keyunwrapresults"]["optsdata"])
        return bool(json.loads(options)["symkey"] == material.symkey)
    return value == material.plaintext


def note_tokens(stage: Stage) -> None:
    """Tokens and session cookies are secrets too."""
    sessions = [session for kbs in stage.brokers for session in kbs.broker.sessions._held.values()]
    for session in sessions:
        stage.canaries.add(session.id.encode())
        if session.token:
            stage.canaries.add(session.token.encode())
            stage.canaries.add(session.token.rpartition(".")[2].encode())
