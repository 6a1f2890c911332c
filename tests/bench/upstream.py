"""Helper: the boot played by upstream's cost model, on real HTTP and real cryptography.

kbs_protocol.md 5.6, per resource: a throw-away key pair in the hub, a new key pair and a new quote in the
attester, /auth and /attest on one new connection, the GET on another. A signed sealed secret needs two
resources, its signing key and its plaintext. Callers run in parallel and nothing is shared. Left out in
upstream's favour: DNS, the local RPCs, and the pauses of its retry loop.

Arguments: the broker's URL and the folder with ``steps.json`` (and ``root.pem`` for https).
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from agent.clock import Deadline, SystemClock
from agent.config.model import KeyAlgorithm, Kms, SealedSecrets
from agent.config.uri import parse_uri
from agent.hub.image_keys import unwrap_key
from agent.hub.kms.registry import Backends
from agent.hub.sealed import Unsealer
from agent.kbs import handshake, jwe
from agent.kbs.keys import TeeKey
from tests.bench import material
from tests.bench.children import BenchError, obey, say

if TYPE_CHECKING:
    from agent.hub.resources import Resources
    from agent.secret import Secret

CURVE = KeyAlgorithm.EC_P256


@dataclass(frozen=True, slots=True)
class Broker:
    """Where it is, and whom to trust."""

    port: int
    tls: ssl.SSLContext | None


class Connection:
    """One TCP connection with as little HTTP as will do."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.cookie = ""

    @classmethod
    async def open(cls, broker: Broker) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", broker.port, ssl=broker.tls))

    async def exchange(self, head: str, body: bytes = b"") -> bytes:
        cookie = f"Cookie: {self.cookie}\r\n" if self.cookie else ""
        start = f"{head}Host: 127.0.0.1\r\n{cookie}Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(start.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        if answer[0].split(" ")[1] != "200":
            raise BenchError(f"the KBS answered {answer[0]}")
        fields = dict(line.split(": ", 1) for line in answer[1:] if ": " in line)
        self.cookie = fields.get("Set-Cookie", self.cookie).split(";")[0]
        return await self._reader.readexactly(int(fields["Content-Length"]))

    def close(self) -> None:
        self._writer.close()


class Upstream:
    """Has the one method of ``agent.hub.resources.Resources`` that unsealing and unwrapping call."""

    def __init__(self, broker: Broker, latency: float, *, serial: bool) -> None:
        self._broker = broker
        self._latency = latency
        self._device = asyncio.Semaphore(1 if serial else sys.maxsize)

    async def get(self, uri: str, deadline: Deadline, *, stale: bool = True) -> Secret:
        TeeKey.generate(CURVE)
        jwt, key = await self._attest()
        connection = await Connection.open(self._broker)
        head = f"GET /kbs/v0/{parse_uri(uri).request_target} HTTP/1.1\r\nAuthorization: Bearer {jwt}\r\n"
        body = await connection.exchange(head)
        connection.close()
        return jwe.decrypt(body, key)

    async def _attest(self) -> tuple[str, TeeKey]:
        key = TeeKey.generate(CURVE)
        connection = await Connection.open(self._broker)
        json_type = "Content-Type: application/json\r\n"
        body = await connection.exchange(
            f"POST /kbs/v0/auth HTTP/1.1\r\n{json_type}", handshake.build_request("sample")
        )
        challenge = handshake.parse_challenge(body)
        digest = handshake.primary_report_data(challenge, key.jwk(), b"")
        async with self._device:
            await asyncio.sleep(self._latency)
        quote = json.dumps({"svn": "1", "report_data": base64.b64encode(digest).decode()}).encode()
        body = await connection.exchange(
            f"POST /kbs/v0/attest HTTP/1.1\r\n{json_type}",
            handshake.build_attestation(challenge, key.jwk(), quote, b"", None),
        )
        connection.close()
        return handshake.parse_token_reply(body).reveal().decode(), key


async def play(
    steps: list[material.Step],
    broker: Broker,
    latency: float,
    callers: int,
    *,
    each: bool = False,
    serial: bool = True,
) -> float:
    """Seconds until the last of ``steps`` is answered, asked for by each caller or shared by all.

    ``serial``: the device makes one quote at a time, as the kernel's drivers have it (attesters.md 2.2, 23).
    """
    resources = cast("Resources", Upstream(broker, latency, serial=serial))
    unsealer = Unsealer(SealedSecrets(), resources, Backends(Kms(), resources, SystemClock()))
    deadline = Deadline.never(SystemClock())
    shared = iter(steps)

    async def caller() -> None:
        for step in iter(steps) if each else shared:
            if step.verb == "unseal":
                secret = await unsealer.unseal(step.ask, deadline)
            elif step.verb == "unwrap":
                secret = await unwrap_key(step.ask, resources, deadline)
            else:
                secret = await resources.get(step.ask.decode(), deadline)
            if secret.reveal() != step.answer:
                raise BenchError(f"{step.verb}: a wrong answer")

    begin = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.perf_counter() - begin


async def main() -> None:
    url, folder = sys.argv[1], Path(sys.argv[2])
    steps = material.read_steps(folder)
    tls = ssl.create_default_context(cafile=folder / "root.pem") if url.startswith("https:") else None
    broker = Broker(int(url.rpartition(":")[2]), tls)

    async def handle(verb: str, arguments: dict[str, Any]) -> dict[str, object]:
        latency, callers = arguments["latency"], arguments["callers"]
        each, serial = arguments["each"], arguments["serial"]
        chosen = steps[:: arguments["every"]]
        seconds = await play(chosen, broker, latency, callers, each=each, serial=serial)
        return {"seconds": seconds}

    await play(steps[:3], broker, 0.0, 1)  # imports and first-use set-up are not upstream's cost
    say(ready=True)
    await obey(handle)


if __name__ == "__main__":
    asyncio.run(main())
