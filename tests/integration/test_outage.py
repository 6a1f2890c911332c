"""A container's sealed values, one after another over one connection, while the broker is away.

Times are a tenth of the real ones: what a broker has is short, what counts is their ratio.
"""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from agent.clock import SystemClock
from agent.config import limits
from agent.config.model import (
    Attester,
    Config,
    Control,
    Credential,
    Gateway,
    Hub,
    Kbs,
    SealedSecrets,
)
from agent.daemon import Daemon
from agent.devkit.kbs import DevKbs, Fault, Kind
from agent.errors import AgentError, ErrorCode
from agent.hub.sealing import keygen, seal_vault
from agent.roles import Fetched
from agent.serve.ttrpc.remote import RemoteHub
from tests.integration.support import soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent.kbs.pauses import Pause

pytestmark = pytest.mark.integration

CLOCK = SystemClock()
KID = "kbs:///default/signing-key/1"
MOST = 8
RETRY_FOR = 2.0
CONNECT = 1.5
REQUEST = 4.0
REST = 4.0
"""Seconds that seven values after the first may take, on a busy machine: their tries take 3.5 at most."""


@dataclass
class Stage:
    """An agent, its broker or what is in its place, and a caller with one connection."""

    kbs: DevKbs
    folder: Path
    sealed: list[bytes]
    hub: RemoteHub = field(init=False)
    daemon: Daemon = field(init=False)
    taken: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hub = RemoteHub(f"unix://{self.folder}/cdh.sock")

    async def start(self, url: str = "", *credentials: Credential, retry_for: float = RETRY_FOR) -> None:
        broker = Kbs(
            url=url or self.kbs.url, retry_for=retry_for, connect_timeout=CONNECT, request_timeout=REQUEST
        )
        config = Config(
            attester=Attester(socket=f"unix://{self.folder}/aa.sock", kbs=broker, allow_sample=True),
            hub=Hub(
                socket=f"unix://{self.folder}/cdh.sock",
                kbc="cc_kbc",
                kbs=broker,
                sealed=SealedSecrets(key_dir=str(self.folder)),
                credentials=credentials,
            ),
            gateway=Gateway(bind="127.0.0.1:0"),
            control=Control(""),
        )
        self.daemon = Daemon(config)
        await self.daemon.start()

    async def stop(self) -> None:
        await self.hub.close()
        await self.daemon.stop()
        for one in self.taken:
            one.close()

    async def values(self, count: int) -> tuple[float, list[str]]:
        """Seconds, and the code of each value; empty for one that was opened."""
        began, codes = time.monotonic(), []
        for sealed in self.sealed[:count]:
            try:
                await self.hub.unseal(sealed, soon(50.0))
                codes.append("")
            except AgentError as error:
                codes.append(error.code.name)
        return time.monotonic() - began, codes

    def take(self, backlog: int) -> str:
        """Somebody who listens where the broker should be, and never says a word."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(backlog)
        self.taken.append(listener)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def black_hole(self) -> str:
        """Nobody answers on the way: the listener's queue is full."""
        url = self.take(0)
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(self.taken[0].getsockname())
            self.taken.append(client)
        return url


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Stage]:
    private, public = keygen(KID)
    async with DevKbs() as kbs:
        kbs.put("default/signing-key/1", public)
        for number in range(MOST):
            kbs.put(f"default/secret/{number}", b"plain")
        sealed = [
            seal_vault(f"kbs:///default/secret/{n}", KID, private.reveal()).encode() for n in range(MOST)
        ]
        stage = Stage(kbs, folder.resolve(), sealed)
        try:
            yield stage
        finally:
            await stage.stop()


UNREACHABLE, TIMEOUT, BUSY = "KBS_UNREACHABLE", "KBS_TIMEOUT", "KBS_BUSY"
OUTAGES = {
    "refused": (RETRY_FOR, UNREACHABLE),
    "no name": (RETRY_FOR, "KBS_DNS_FAILED"),
    "black hole": (RETRY_FOR, UNREACHABLE),
    "silent": (REQUEST, TIMEOUT),
    "busy": (RETRY_FOR, BUSY),
    "busy when it judges": (RETRY_FOR, BUSY),
    "silent when it judges": (REQUEST, "APPRAISAL_TIMEOUT"),
    "silent about resources": (REQUEST, TIMEOUT),
    "busy with resources": (RETRY_FOR, BUSY),
}
WHERE = {"busy": "auth", "busy when it judges": "attest", "silent when it judges": "attest"}


async def begin(stage: Stage, outage: str) -> None:
    """The agent, in that outage."""
    fault = Fault(Kind.STATUS, status=503) if outage.startswith("busy") else Fault(Kind.BLACK_HOLE)
    if outage == "refused":
        await stage.kbs.stop()
        return await stage.start()
    if outage == "no name":
        return await stage.start("http://kbs.invalid:8080")
    if outage == "silent":
        return await stage.start(stage.take(64))
    if outage == "black hole":
        return await stage.start(stage.black_hole())
    await stage.start()
    if outage not in WHERE:
        assert (await stage.values(1))[1] == [""]  # a token is held
    stage.kbs.faults.on(WHERE.get(outage, "resource"), fault)
    return None


@pytest.mark.parametrize("outage", OUTAGES)
async def test_a_containers_values_wait_for_an_outage_once(tmp_path: Path, outage: str) -> None:
    async with staged(tmp_path) as stage:
        await begin(stage, outage)
        patience, code = OUTAGES[outage]
        one, codes = await stage.values(1)
        assert codes == [code]
        assert one > patience * 0.8
        rest, codes = await stage.values(MOST - 1)
        assert codes == [code] * (MOST - 1)
        assert rest < REST  # before: 7 times the first


@pytest.mark.parametrize("count", [1, 3, 8])
async def test_a_broker_that_comes_back_is_found_by_the_next_value(tmp_path: Path, count: int) -> None:
    async with staged(tmp_path) as stage:
        port = stage.kbs.port
        await stage.kbs.stop()
        await stage.start()
        assert (await stage.values(1))[1] == [UNREACHABLE]
        await stage.kbs.start(port=port)
        seconds, codes = await stage.values(count)
        assert codes == [""] * count
        assert seconds < RETRY_FOR


async def test_one_that_judges_again_is_found_by_the_next_value(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await begin(stage, "silent when it judges")
        assert (await stage.values(3))[1] == ["APPRAISAL_TIMEOUT"] * 3
        stage.kbs.faults.clear()
        assert (await stage.values(3))[1] == [""] * 3


async def test_a_broker_that_answered_before_is_not_waited_for_as_long(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start(retry_for=10.0)
        assert (await stage.values(1))[1] == [""]
        await stage.kbs.stop()
        seconds, codes = await stage.values(8)
        assert codes == [UNREACHABLE] * 8
        assert 3.0 < seconds < 6.0


async def test_one_resource_that_hangs_leaves_the_others_their_time(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        assert (await stage.values(1))[1] == [""]
        client = stage.daemon._shared.client(stage.daemon.config.hub.kbs)
        hit = asyncio.Event()
        stage.kbs.faults.on("resource", Fault(Kind.BLACK_HOLE, times=1, arrived=hit))
        hung = asyncio.ensure_future(stage.hub.get_resource("kbs:///default/secret/1", soon(50.0)))
        await hit.wait()
        await asyncio.sleep(REQUEST / 2)
        await stage.hub.get_resource("kbs:///default/secret/2", soon())
        with pytest.raises(AgentError) as caught:
            await hung
        assert caught.value.code is ErrorCode.KBS_TIMEOUT
        assert client.outage.known("resource") is None


async def paused(stage: Stage, *, at_least: float) -> Pause:
    """The pause of the only request under way, once it is that long."""
    client = stage.daemon._shared.client(stage.daemon.config.hub.kbs)
    client._chance = lambda: 1.0
    for _ in range(limits.RETRY_REMEMBERED):
        client.trouble.failed(1)  # as after a while
    for _ in range(1000):
        for pause in client.pauses._under_way:
            if pause.until - CLOCK.boot() > at_least:
                return pause
            pause.move(0.0)
        await asyncio.sleep(0.01)
    raise AssertionError("no pause")


async def test_a_caller_that_joins_credentials_does_not_sleep_through_the_brokers_return(
    tmp_path: Path,
) -> None:
    # Nothing is there to be written: the file's place is outside of what a test may touch.
    missing = "kbs:///default/not/there"
    wanted = Credential("/run/confidential-containers/cdh/kbs/coco-test/never", missing)
    async with staged(tmp_path) as stage:
        port = stage.kbs.port
        await stage.kbs.stop()
        await stage.start("", wanted, retry_for=30.0)
        await paused(stage, at_least=5.0)
        await stage.kbs.start(port=port)
        began = time.monotonic()
        # The very resource that the credential waits for, and one that waits for the same token.
        same, other = await asyncio.gather(
            stage.hub.get_resource(missing, soon()),
            stage.hub.get_resource("kbs:///default/secret/1", soon()),
            return_exceptions=True,
        )
        assert time.monotonic() - began < 1.0 + limits.RETRY_JOINED
        assert isinstance(same, AgentError)
        assert same.code is ErrorCode.RESOURCE_NOT_FOUND
        assert isinstance(other, Fetched)


async def test_a_success_ends_every_pause(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start(retry_for=30.0)
        assert (await stage.values(1))[1] == [""]
        stage.kbs.faults.on("resource", Fault(Kind.STATUS, status=503, times=1))
        waiting = asyncio.ensure_future(stage.hub.get_resource("kbs:///default/secret/1", soon()))
        pause = await paused(stage, at_least=0.0)
        pause.until += 10.0
        pause.moved.set()  # its sleep is that long now
        began = time.monotonic()
        await stage.hub.get_resource("kbs:///default/secret/2", soon())
        await waiting
        assert time.monotonic() - began < 1.0
