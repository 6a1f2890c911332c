"""The end of ``Context.http`` for tests without sockets: scripted answers, what was sent kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec

from agent.clock import Deadline
from agent.config.model import Kms
from agent.devkit.clock import FakeClock
from agent.hub.kms.base import Backend, Context
from agent.hub.kms.credentials import Credentials
from agent.hub.kms.http import KmsAnswer, KmsHttp
from agent.hub.resources import Resources
from agent.observe.metrics import Metrics
from tests.unit.hub.support import StoredGetter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.http.tls import Trust


S = TypeVar("S", bound=msgspec.Struct)


@dataclass
class Sent:
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Wire:
    answers: list[KmsAnswer] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    endpoints: tuple[str, ...] = ()

    def allowed(self, url: str) -> str:
        return KmsHttp(Kms(endpoints=self.endpoints)).allowed(url)

    async def trust(self, roots: str = "", identity: object = None) -> Trust:
        return await KmsHttp(Kms()).trust(roots)

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        deadline: Deadline,
        *,
        trust: Trust | None = None,
    ) -> KmsAnswer:
        self.sent.append(Sent(method, url, headers, body))
        return self.answers.pop(0)


@dataclass
class Bench:
    """A backend with everything around it."""

    files: dict[str, bytes] = field(default_factory=dict)
    wire: Wire = field(default_factory=Wire)
    clock: FakeClock = field(default_factory=FakeClock)

    def context(self) -> Context:
        uris = {f"kbs:///kms/{name}": content for name, content in self.files.items()}
        settings = Kms(credentials=tuple((name, f"kbs:///kms/{name}") for name in self.files))
        resources = Resources(lambda: StoredGetter(uris), Metrics())
        return Context(Credentials(settings, resources), cast("KmsHttp", self.wire), self.clock)

    def open(self, backend: Backend[S], settings: S) -> object:
        return backend.open(settings, self.context())

    def soon(self) -> Deadline:
        return Deadline.after(self.clock, 20)
