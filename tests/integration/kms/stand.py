"""A played service on loopback with real TLS, and the hub's backends in front of it."""

from __future__ import annotations

import asyncio
import base64
import enum
import json
import traceback
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest
from msgspec.structs import replace

from agent.clock import Deadline, SystemClock
from agent.config import limits
from agent.config.model import Kms
from agent.devkit.clock import FakeClock
from agent.devkit.pki import Authority
from agent.devkit.web import web
from agent.errors import AgentError, ErrorCode
from agent.hub.kms.http import KmsHttp
from agent.hub.kms.registry import Backends
from agent.hub.resources import Resources
from agent.observe.metrics import Metrics
from agent.secret import Secret

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Mapping
    from pathlib import Path

PLAINTEXT = b"pl4intext-c4n4ry \x00\xff of a service"
TEXT = "t3xt-c4n4ry, as many secrets are: gr\u00fc\u00dfe"
NOW = 1_790_000_000.0
"""The guest's clock, in seconds since the Unix epoch: 2026-09-21T14:13:20Z."""


class Mode(enum.Enum):
    """How the played service behaves, except for logging in."""

    GOOD = enum.auto()
    DENIED = enum.auto()
    MISSING = enum.auto()
    BUSY = enum.auto()
    GARBAGE = enum.auto()
    CUT = enum.auto()
    HUGE = enum.auto()
    SILENT = enum.auto()
    STALLED = enum.auto()
    REDIRECT = enum.auto()


class Fake(ABC):
    """One service as recorded. A backend with several ways in has one of these for each.

    The service checks what a real one would (signatures, dates, hosts) and notes in ``complaints`` what it
    did not like; the stand fails the test for each.

    Attributes:
        title: names the tests.
        provider: as secrets name it.
        hosts: cloud host names it plays by TLS. None: its own address goes into ``kms.endpoints``.
        plain_hosts: addresses it plays without TLS.
        gets, decrypts, encrypts: what the backend offers with these settings.
        needs_credentials: whether there are credentials files at all.
        name, key_id: what it holds.
        get_annotations: of a secret whose plaintext is ``name``.
        url: where it runs; set by the stand.
        clock: the guest's; set by the stand.
    """

    title: ClassVar[str]
    provider: ClassVar[str]
    hosts: ClassVar[tuple[str, ...]] = ()
    plain_hosts: ClassVar[tuple[str, ...]] = ()
    gets: ClassVar[bool] = False
    decrypts: ClassVar[bool] = False
    encrypts: ClassVar[bool] = False
    needs_credentials: ClassVar[bool] = True
    name: ClassVar[str] = "some-secret"
    key_id: ClassVar[str] = "some-key"
    get_annotations: ClassVar[Mapping[str, object]] = {}

    def __init__(self) -> None:
        self.url = ""
        self.clock = FakeClock(wall=NOW)
        self.complaints: list[str] = []

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """``provider_settings`` of a secret; ``self.url`` is set."""

    @abstractmethod
    def credentials(self) -> dict[str, bytes]:
        """Files of the provider's folder."""

    @abstractmethod
    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve; ``name`` has ``PLAINTEXT`` (or ``TEXT``, see ``value``)."""

    @abstractmethod
    def denied(self) -> web.Response:
        """As the service says that the credentials are not enough."""

    @abstractmethod
    def missing(self) -> web.Response:
        """As the service says that there is no such key or secret."""

    def busy(self) -> web.Response:
        """As the service says that this was too much."""
        return web.json_response({}, status=503)

    def wrap(self, plaintext: bytes) -> tuple[bytes, dict[str, object]]:
        """Ciphertext and annotations as the owner of a secret got them of the service."""
        raise NotImplementedError

    def value(self) -> bytes:
        """What ``name`` holds."""
        return PLAINTEXT

    def garbage(self) -> tuple[bytes, ...]:
        """Bodies of good answers that are none."""
        return (b"", b"{}", b"[]", b"null", b'"text"', b"<html>busy</html>", b"\xff\x00\xfe", b"[" * 5000)

    def malformed(self) -> dict[str, bytes]:
        """Credentials files, each with what cannot be credentials; those without checks left out."""
        return dict.fromkeys(self.credentials(), b"\xff\xfe\x00 are no credentials")

    def listens(self, context: ssl.SSLContext) -> None:  # noqa: B027  # most do not care
        """Add to the service's TLS settings, such as who clients must be."""

    def logs_in(self, request: web.Request) -> bool:
        """Whether a request only gets a token; then ``Mode`` does not concern it."""
        return False

    def secrets(self) -> tuple[str, ...]:
        """What must never show: besides the plaintexts, parts of the credentials."""
        return ()


@dataclass
class Broker:
    """The key broker's part: credentials as resources."""

    held: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        self.asked.append(name)
        if name not in self.held:
            raise AgentError(ErrorCode.RESOURCE_NOT_FOUND, "not held")
        return Secret(self.held[name])


class Stand:
    """Runs the fake, and asks it as the hub would."""

    def __init__(self, fake: Fake, folder: Path) -> None:
        self.fake = fake
        self.folder = folder
        self.mode = Mode.GOOD
        self.body = b""
        self.annotations = dict(fake.get_annotations)
        self.seen: list[str] = []
        self.broker = Broker()
        self.errors: list[AgentError] = []
        self.authority = Authority()
        self._over = asyncio.Event()
        self._sites: list[web.TCPSite] = []
        self._backends: Backends | None = None
        self.kms = Kms()
        self.routes: dict[str, tuple[str, int]] = {}

    # --- asking -----------------------------------------------------------------------------------
    @property
    def backends(self) -> Backends:
        assert self._backends is not None
        return self._backends

    def raw_settings(self) -> dict[str, msgspec.Raw]:
        return raw(self.fake.settings())

    async def get(self, name: str = "", seconds: float = 20.0) -> bytes:
        getter = self.backends.getter(self.fake.provider, self.raw_settings())
        secret = await getter.get(name or self.fake.name, dict(self.annotations), soon(seconds))
        return secret.reveal()

    async def decrypt(
        self,
        ciphertext: bytes | None = None,
        annotations: Mapping[str, object] | None = None,
        seconds: float = 20.0,
    ) -> bytes:
        made, with_it = self.fake.wrap(PLAINTEXT)
        decrypter = self.backends.decrypter(self.fake.provider, self.raw_settings())
        data = made if ciphertext is None else ciphertext
        told = with_it if annotations is None else annotations
        return (await decrypter.decrypt(data, self.fake.key_id, told, soon(seconds))).reveal()

    async def encrypt(self, plaintext: bytes) -> tuple[bytes, dict[str, object]]:
        encrypter = self.backends.encrypter(self.fake.provider, self.raw_settings())
        return await encrypter.encrypt(Secret(plaintext), self.fake.key_id, soon())

    async def use(self, seconds: float = 20.0) -> bytes:
        """Whatever the backend offers first."""
        return await (self.get(seconds=seconds) if self.fake.gets else self.decrypt(seconds=seconds))

    async def fails(self, asking: Awaitable[object]) -> AgentError:
        with pytest.raises(AgentError) as caught:
            await asking
        self.errors.append(caught.value)
        return caught.value

    # --- the stage --------------------------------------------------------------------------------
    def give_files(self, files: Mapping[str, bytes]) -> None:
        """Credentials as files; nothing else of the provider is there then."""
        folder = self.folder / "kms" / self.fake.provider
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, content in files.items():
            path = folder / name
            path.write_bytes(content)
            path.chmod(0o600)

    async def give_resources(self, files: Mapping[str, bytes]) -> None:
        """Credentials as resources of the broker, and no files."""
        self.give_files({})
        pairs = {f"{self.fake.provider}/{name}": f"kbs:///kms/{self.fake.provider}/{name}" for name in files}
        self.broker.held = {
            f"kbs:///kms/{self.fake.provider}/{name}": content for name, content in files.items()
        }
        await self.configure(credentials=tuple(pairs.items()))

    async def configure(self, **changes: Any) -> None:
        """New backends, with other settings."""
        if self._backends is not None:
            await self._backends.close()
        self.kms = replace(self.kms, **changes)
        self._backends = Backends(
            self.kms,
            Resources(lambda: self.broker, Metrics()),
            self.fake.clock,
            http=KmsHttp(self.kms, routes=self.routes),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stand]:
        fake = self.fake
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{rest:.*}", self._serve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            context = self.authority.issue("localhost", *fake.hosts).context()
            fake.listens(context)
            port = await self._listen(runner, context)
            plain = await self._listen(runner, None) if fake.plain_hosts else 0
            fake.url = f"https://localhost:{port}"
            self.routes = dict.fromkeys(fake.hosts, ("127.0.0.1", port))
            self.routes |= dict.fromkeys(fake.plain_hosts, ("127.0.0.1", plain))
            self.give_files(fake.credentials())
            await self.configure(
                credentials_dir=str(self.folder / "kms"),
                endpoints=() if fake.hosts else (fake.url,),
                extra_roots=self.authority.pem,
            )
            yield self
        finally:
            self._over.set()
            if self._backends is not None:
                await self._backends.close()
            await runner.cleanup()

    async def stop_listening(self) -> None:
        """The service is gone; its port answers nobody."""
        for site in tuple(self._sites):
            await site.stop()
        await self.configure()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        fake = self.fake
        self.seen.append(f"{request.method} {request.path}")
        own = {*fake.hosts, *fake.plain_hosts} or {fake.url.removeprefix("https://")}
        if request.host not in own:
            fake.complaints.append(f"Host {request.host} is none of {sorted(own)}")
        if fake.logs_in(request):
            return await fake.handle(request)
        await request.read()
        return await self._behave(request)

    async def _behave(self, request: web.Request) -> web.StreamResponse:
        fake = self.fake
        prepared = {Mode.DENIED: fake.denied, Mode.MISSING: fake.missing, Mode.BUSY: fake.busy}
        if self.mode in prepared:
            return prepared[self.mode]()
        if self.mode in {Mode.GARBAGE, Mode.HUGE}:
            huge = b" " * (limits.KMS_MAX_ANSWER + 1)
            return web.Response(body=self.body if self.mode is Mode.GARBAGE else huge)
        if self.mode is Mode.REDIRECT:
            return web.Response(status=307, headers={"Location": f"{fake.url}/elsewhere"})
        if self.mode in {Mode.CUT, Mode.STALLED}:
            return await self._begin(request)
        if self.mode is Mode.SILENT:
            await self._over.wait()
        return await fake.handle(request)

    async def _begin(self, request: web.Request) -> web.StreamResponse:
        """The first bytes of an answer, and never the others."""
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"')
        if self.mode is Mode.STALLED:
            await self._over.wait()
        if request.transport is not None:
            request.transport.close()
        return response

    async def _listen(self, runner: web.AppRunner, context: ssl.SSLContext | None) -> int:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        before = len(runner.addresses)
        await site.start()
        self._sites.append(site)
        return int(runner.addresses[before][1])

    # --- the verdict ------------------------------------------------------------------------------
    def leaks(self, logged: str) -> list[str]:
        """Secrets that show in what was logged, or in an error with its whole chain."""
        shown = [logged]
        for error in self.errors:
            shown += [str(error), repr(error), error.detail, "".join(traceback.format_exception(error))]
        everything = "\n".join(shown)
        return [secret for secret in self._secrets() if secret in everything]

    def _secrets(self) -> set[str]:
        known = {TEXT, "pl4intext-c4n4ry", base64.b64encode(PLAINTEXT).decode(), *self.fake.secrets()}
        return {secret for secret in known if secret}


def raw(members: Mapping[str, object]) -> dict[str, msgspec.Raw]:
    """Members of JSON as the payload of a secret has them."""
    return msgspec.json.decode(json.dumps(members), type=dict[str, msgspec.Raw])


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline.after(SystemClock(), seconds)
