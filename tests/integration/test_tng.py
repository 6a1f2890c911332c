"""TNG, a gateway of another project, takes its evidence from our agent and judges it with its own verifier.

TNG ships a Rust client of the attestation agent and the sample verifier; neither shares code with us. The
program comes with the PyPI package ``tng-sdk`` of the dev group; without it these tests fail.
"""

from __future__ import annotations

import asyncio
import base64
import json
import platform
import shutil
import socket
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.attester import LocalAttester
from agent.clock import SystemClock
from agent.config.model import Features, Gateway
from agent.devkit.sample import SampleAttester
from agent.observe.audit import Audit
from agent.observe.health import Health
from agent.observe.metrics import Metrics
from agent.observe.redact import ResourceNames
from agent.serve.front import Front
from agent.serve.rest.app import build_app
from agent.serve.rest.listen import serve
from agent.serve.sockets import listen_unix
from agent.serve.ttrpc.server import TtrpcServer
from agent.serve.ttrpc.services import aa_services
from agent.tee.evidence_source import GuestEvidence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from agent.clock import Deadline

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        platform.machine() != "x86_64" or sys.platform != "linux", reason="TNG is built for Linux on x86_64"
    ),
]

READY = "All services are ready"
REFUSAL = "REPORT_DATA is different from that in Sample Quote"


class TngSample:
    """Sample evidence with the two members that TNG's verifier reads besides ours.

    Attributes:
        tamper: flip a bit of the report data.
        asked: report data of every quote.
    """

    tee = "sample"

    def __init__(self, *, tamper: bool) -> None:
        self.tamper = tamper
        self.asked: list[bytes] = []

    async def collect(self, report_data: bytes, deadline: Deadline) -> bytes:
        self.asked.append(report_data)
        evidence = json.loads(await SampleAttester().collect(report_data, deadline))
        if self.tamper:
            quoted = bytearray(base64.b64decode(evidence["report_data"]))
            quoted[0] ^= 1
            evidence["report_data"] = base64.b64encode(quoted).decode()
        return json.dumps({**evidence, "measure_register": "0" * 64, "cc_eventlog": None}).encode()


def front_of(sample: TngSample) -> Front:
    return Front(
        hub=None,
        attester=LocalAttester(GuestEvidence(sample, (), None), None),
        metrics=Metrics(),
        audit=Audit(ResourceNames(shown=False)),
        clock=SystemClock(),
    )


@asynccontextmanager
async def over_ttrpc(sample: TngSample, folder: Path) -> AsyncIterator[dict[str, object]]:
    address = f"unix://{folder}/aa.sock"
    server = TtrpcServer(aa_services(front_of(sample)))
    await server.start(listen_unix(address))
    try:
        yield {"aa_provider": "coco", "aa_type": "uds", "aa_addr": address, "refresh_interval": 0}
    finally:
        await server.stop(0)


@asynccontextmanager
async def over_rest(sample: TngSample, folder: Path) -> AsyncIterator[dict[str, object]]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    app = build_app(
        front_of(sample),
        Gateway(features=Features.ALL),
        metrics=None,
        health=Health(),
        version="test",
    )
    running = await serve(app, listener)
    try:
        yield {"aa_provider": "coco_asr", "asr_addr": f"http://127.0.0.1:{port}", "refresh_interval": 0}
    finally:
        await running.cleanup()


PROVIDERS = pytest.mark.parametrize("provider", [over_ttrpc, over_rest], ids=["ttrpc", "rest"])


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1024):
            writer.write(data)
    writer.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - another process's log file is what changes
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(what)


class Tunnel:
    """A running TNG: what enters at ``port`` leaves at the echo server, through an attested channel."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self._log = log

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    async def send(self, data: bytes) -> bytes:
        """What comes back; nothing when the tunnel was refused."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(20):
                writer.write(data)
                return await reader.readexactly(len(data))
        except asyncio.IncompleteReadError as error:
            return error.partial
        except ConnectionError:
            return b""
        finally:
            writer.close()


def config(attest: dict[str, object], entry: int, between: int, behind: int) -> str:
    def mapping(port: int, out: int) -> dict[str, object]:
        return {"in": {"host": "127.0.0.1", "port": port}, "out": {"host": "127.0.0.1", "port": out}}

    verify = {
        "model": "background_check",
        "as_provider": "coco",
        "as_type": "builtin",
        "attestation_policy": {"type": "trust_all"},
    }
    return json.dumps(
        {
            "add_ingress": [{"mapping": mapping(entry, between), "verify": verify}],
            "add_egress": [{"mapping": mapping(between, behind), "attest": attest}],
        }
    )


@asynccontextmanager
async def tunnel(attest: dict[str, object], folder: Path) -> AsyncIterator[Tunnel]:
    binary = shutil.which("tng", path=str(Path(sys.executable).parent))
    if binary is None:
        pytest.fail("the program 'tng' is missing: install the dev group (tng-sdk)")
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    entry = free_port()
    content = config(attest, entry, free_port(), server.sockets[0].getsockname()[1])
    log = folder / "tng.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            binary, "launch", "--config-content", content, cwd=folder, stdout=output, stderr=output
        )
    running = Tunnel(entry, log)
    try:
        await until(lambda: READY in running.log() or process.returncode is not None, "TNG does not start")
        assert process.returncode is None, running.log()
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(process.wait(), 10)
        server.close()


@PROVIDERS
async def test_honest_evidence_opens_the_tunnel(
    provider: Callable[[TngSample, Path], AbstractAsyncContextManager[dict[str, object]]], tmp_path: Path
) -> None:
    sample = TngSample(tamper=False)
    async with provider(sample, tmp_path) as attest, tunnel(attest, tmp_path) as running:
        assert await running.send(b"through the tunnel") == b"through the tunnel", running.log()
        await until(lambda: "attested=true" in running.log(), "TNG does not say that it attested its peer")
    assert {len(data) for data in sample.asked} == {48}


@PROVIDERS
async def test_evidence_for_other_report_data_is_refused(
    provider: Callable[[TngSample, Path], AbstractAsyncContextManager[dict[str, object]]], tmp_path: Path
) -> None:
    sample = TngSample(tamper=True)
    async with provider(sample, tmp_path) as attest, tunnel(attest, tmp_path) as running:
        assert await running.send(b"through the tunnel") == b""
        await until(lambda: REFUSAL in running.log(), "TNG does not say why it refused")
    assert sample.asked
