"""Runtime measurement through every API of a real daemon, over registers in a file."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.config.model import Attester, Cache, CacheRule, Config, Control, Features, Gateway, Hub, Kbs
from agent.daemon import Daemon
from agent.devkit.kbs import DevKbs
from agent.devkit.sample import SampleAttester
from agent.errors import AgentError, ErrorCode
from agent.roles import MeasurementResult
from agent.serve.ttrpc.remote import RemoteAttester
from agent.tee import attesters
from agent.tee.attesters import DeviceAttester
from agent.tee.devices import Collected
from agent.tee.evidence_source import GuestEvidence
from tests.integration.support import http, soon
from tests.unit.tee.eventlog.registers import Guest
from tests.unit.tee.eventlog.test_runtime import interrupted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent.clock import Deadline
    from tests.integration.support import Answer

pytestmark = pytest.mark.integration

EVENT = {"domain": "example.org", "operation": "start", "content": "v1"}
MEASURED = (4, "example.org", "start", "v1")
JSON = {"Accept": "application/json"}
PATH = "default/key/1"


class Tee(DeviceAttester):
    """A TEE with the guest's registers, whose evidence is the sample's; it looks at the log meanwhile."""

    def __init__(self, guest: Guest, settings: Attester) -> None:
        super().__init__("tdx", settings)
        self.tee = "sample"
        self.guest = guest
        self.seen: list[tuple[int, bool]] = []

    async def collect_devices(self, report_data: bytes, deadline: Deadline) -> Collected:
        self.seen.append((len(self.guest.events()), self.guest.agrees()))
        return Collected(await SampleAttester().collect(report_data, deadline))


class Place:
    def __init__(self, kbs: DevKbs, daemon: Daemon, tee: Tee) -> None:
        self.kbs = kbs
        self.daemon = daemon
        self.tee = tee

    async def post(self, headers: dict[str, str] | None = None, **event: object) -> Answer:
        body = json.dumps({**EVENT, **event}).encode()
        return await http(f"{self.daemon.rest_url}/aa/aael", "POST", body, headers)

    @asynccontextmanager
    async def attester(self) -> AsyncIterator[RemoteAttester]:
        remote = RemoteAttester(self.daemon.config.attester.socket)
        try:
            yield remote
        finally:
            await remote.close()


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    made = Guest(tmp_path)
    monkeypatch.setattr(attesters, "import_module", lambda _: made.registers)
    return made


@asynccontextmanager
async def running(
    guest: Guest, *, enabled: bool = True, features: Features = Features.ALL, cache: Cache | None = None
) -> AsyncIterator[Place]:
    async with DevKbs() as kbs:
        kbs.put(PATH, b"value")
        broker = Kbs(url=kbs.url)
        socket = f"unix://{guest.root}/aa.sock"
        settings = replace(guest.settings(enabled=enabled), socket=socket, kbs=broker)
        tee = Tee(guest, settings)
        config = Config(
            attester=settings,
            hub=Hub(socket=f"unix://{guest.root}/cdh.sock", kbc="cc_kbc", kbs=broker, cache=cache or Cache()),
            gateway=Gateway(bind="127.0.0.1:0", features=features),
            control=Control(""),
        )
        daemon = Daemon(config, evidence=GuestEvidence(tee, (), None))
        await daemon.start()
        try:
            yield Place(kbs, daemon, tee)
        finally:
            await daemon.stop()


async def test_rest_and_ttrpc_measure_into_one_log(guest: Guest) -> None:
    async with running(guest) as place, place.attester() as attester:
        answer = await place.post()
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.body == b'{"success":"true"}'
        assert await attester.extend("d", "o", "1", None, soon()) is MeasurementResult.OK
        assert await attester.extend("d", "o", "2", 1, soon()) is MeasurementResult.OK
    assert guest.events() == [MEASURED, (4, "d", "o", "1"), (1, "d", "o", "2")]
    assert guest.agrees()


async def test_who_asks_for_once_gets_once(guest: Guest) -> None:
    async with running(guest) as place, place.attester() as attester:
        for _ in range(2):
            assert (await place.post(once=True)).body == b'{"success":"true"}'
            await attester.extend("example.org", "start", "v1", None, soon(), once=True)
        assert guest.events() == [MEASURED]
        await place.post()
        assert guest.events() == [MEASURED] * 2


async def test_a_guest_without_the_log_says_so(guest: Guest) -> None:
    async with running(guest, enabled=False) as place, place.attester() as attester:
        assert (await place.post()).body == (
            b'{"success":"false","message": "Attestation Agent does not enable eventlog recording"}'
        )
        assert await attester.extend("", "", "\n", 0, soon()) is MeasurementResult.NOT_ENABLED


async def test_a_guest_without_registers_says_so(guest: Guest) -> None:
    guest.registers.problem = "kernel older than 6.16"
    async with running(guest) as place, place.attester() as attester:
        assert (await place.post()).body == (
            b'{"success":"false","message": "The platform does not support runtime measurement"}'
        )
        assert await attester.extend("", "", "\n", 0, soon()) is MeasurementResult.NOT_SUPPORTED
    assert not guest.folder.exists()


async def test_what_is_refused_has_its_code(guest: Guest) -> None:
    async with running(guest) as place, place.attester() as attester:
        answer = await place.post(JSON, domain="two words")
        assert (answer.status, answer.json()["code"]) == (400, "INVALID_REQUEST")
        with pytest.raises(AgentError) as caught:
            await attester.extend("d", "o", "c", 256, soon())
        assert caught.value.code is ErrorCode.INVALID_REQUEST
        assert guest.events() == []
        await place.post()
        guest.registers.extend_register(guest.settings(), 4, bytes(48))
        answer = await place.post(JSON)
        assert (answer.status, answer.json()["code"]) == (503, "EVENT_LOG_CORRUPT")


async def test_without_the_feature_nothing_is_measured(guest: Guest) -> None:
    async with running(guest, features=Features.RESOURCE) as place:
        assert (await place.post()).body == b"Attestation Feature Not Enabled"
    assert guest.registers.extended == []


@pytest.mark.parametrize("enabled", [True, False])
async def test_evidence_never_goes_out_with_half_a_measurement(guest: Guest, enabled: bool) -> None:
    interrupted(guest, extended=True)
    async with running(guest, enabled=enabled) as place:
        assert (await http(f"{place.daemon.rest_url}/cdh/resource/{PATH}")).body == b"value"
        assert (await http(f"{place.daemon.rest_url}/aa/evidence?runtime_data=x")).status == 200
        assert place.tee.seen == [(2, True)] * 2
    assert guest.leftovers() == set()


async def test_what_was_kept_is_asked_for_again_after_a_measurement(guest: Guest) -> None:
    async with running(guest, cache=Cache((CacheRule("default/*/*", 300, 600),))) as place:
        url = f"{place.daemon.rest_url}/cdh/resource/{PATH}"
        assert [(await http(url)).headers["x-cache"] for _ in range(2)] == ["MISS", "HIT"]
        await place.post()
        assert (await http(url)).headers["x-cache"] == "MISS"
