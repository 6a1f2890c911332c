"""Runtime measurement from the event loop: in turn with quotes, and never in their way."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from agent.attester import LocalAttester
from agent.clock import Clock, Deadline
from agent.devkit.clock import FakeClock
from agent.devkit.sample import SampleAttester
from agent.errors import AgentError, ErrorCode
from agent.roles import MeasurementResult
from agent.tee import attesters
from agent.tee.attesters import DeviceAttester
from agent.tee.eventlog import MeasuredEvidence, Measurer
from agent.tee.evidence_source import GuestEvidence
from tests.unit.tee.eventlog.registers import FileRegisters, Guest
from tests.unit.tee.eventlog.test_runtime import interrupted

if TYPE_CHECKING:
    from pathlib import Path

CLOCK: Clock = FakeClock()
DEADLINE = Deadline.after(CLOCK, 60)
EVENT = ("example.org", "start", "v1", None)


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


@pytest.fixture
def device(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> DeviceAttester:
    """The real one, whose module is the guest's registers."""
    monkeypatch.setattr(attesters, "import_module", lambda _: guest.registers)
    return DeviceAttester("tdx", guest.settings())


async def code_of(asked: Any) -> ErrorCode:
    with pytest.raises(AgentError) as caught:
        await asked
    return caught.value.code


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        str(vars(line).get("reason") or vars(line).get("code"))
        for line in caplog.records
        if line.name == "coco.eventlog" and line.levelname != "INFO"
    ]


async def test_events_asked_for_at_once_are_all_there(guest: Guest, device: DeviceAttester) -> None:
    measurer = Measurer(device, guest.settings())
    asked = [measurer.extend("d", "o", str(number), None, DEADLINE) for number in range(8)]
    assert set(await asyncio.gather(*asked)) == {MeasurementResult.OK}
    assert {event[3] for event in guest.events()} == set("01234567")
    assert guest.agrees()


async def test_the_order_of_refusals(guest: Guest, device: DeviceAttester) -> None:
    off = guest.settings(enabled=False)
    bad = ("", "", "\n", -1, DEADLINE)
    assert await Measurer(None, off).extend(*bad) is MeasurementResult.NOT_ENABLED
    assert await Measurer(device, off).extend(*bad) is MeasurementResult.NOT_ENABLED
    assert await Measurer(None, guest.settings()).extend(*bad) is MeasurementResult.NOT_SUPPORTED
    assert await code_of(Measurer(device, guest.settings()).extend(*bad)) is ErrorCode.INVALID_REQUEST


async def test_a_tee_without_registers(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attesters, "import_module", lambda _: object())
    measurer = Measurer(DeviceAttester("se", guest.settings()), guest.settings())
    assert await measurer.extend(*EVENT, DEADLINE) is MeasurementResult.NOT_SUPPORTED


async def test_a_probe_at_start_says_what_is_missing(
    guest: Guest, device: DeviceAttester, caplog: pytest.LogCaptureFixture
) -> None:
    guest.registers.problem = "kernel older than 6.16"
    await Measurer(device, guest.settings()).prepare(DEADLINE)
    assert warnings(caplog) == ["kernel older than 6.16"]


async def test_a_probe_at_start_finds_a_log_that_disagrees(
    guest: Guest, device: DeviceAttester, caplog: pytest.LogCaptureFixture
) -> None:
    measurer = Measurer(device, guest.settings())
    await measurer.extend(*EVENT, DEADLINE)
    guest.registers.extend_register(guest.settings(), 4, bytes(48))
    await measurer.prepare(DEADLINE)
    assert warnings(caplog) == ["EVENT_LOG_CORRUPT"]
    assert await code_of(measurer.extend(*EVENT, DEADLINE)) is ErrorCode.EVENT_LOG_CORRUPT


async def test_a_guest_without_a_log_loads_nothing_and_says_nothing(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def loaded(name: str) -> object:
        raise AssertionError(name)

    monkeypatch.setattr(attesters, "import_module", loaded)
    settings = guest.settings(enabled=False)
    measurer = Measurer(DeviceAttester("tdx", settings), settings)
    await measurer.prepare(DEADLINE)
    await measurer.settle(DEADLINE)
    await Measurer(None, settings).prepare(DEADLINE)
    assert warnings(caplog) == []


@pytest.mark.parametrize("enabled", [True, False])
async def test_start_completes_what_was_interrupted(
    guest: Guest, device: DeviceAttester, enabled: bool
) -> None:
    interrupted(guest, extended=True)
    await Measurer(device, guest.settings(enabled=enabled)).prepare(DEADLINE)
    assert (len(guest.events()), guest.agrees(), guest.leftovers()) == (2, True, set())


class Watching(SampleAttester):
    """Looks at the log when it is asked for evidence."""

    def __init__(self, guest: Guest) -> None:
        super().__init__()
        self.guest = guest
        self.seen: list[tuple[int, bool]] = []

    async def collect(self, report_data: bytes, deadline: Deadline) -> bytes:
        self.seen.append((len(self.guest.events()), self.guest.agrees()))
        return await super().collect(report_data, deadline)


async def test_evidence_waits_for_what_was_interrupted(guest: Guest, device: DeviceAttester) -> None:
    watching = Watching(guest)
    evidence = MeasuredEvidence(
        GuestEvidence(watching, (), None), Measurer(device, guest.settings(enabled=False))
    )
    interrupted(guest, extended=True)
    await evidence.primary(b"x", DEADLINE)
    assert watching.seen == [(2, True)]
    assert (evidence.tee, evidence.devices) == ("sample", ())
    assert await evidence.additional(b"x", DEADLINE) == b""


async def test_evidence_is_given_although_the_log_cannot_be_recovered(
    guest: Guest, device: DeviceAttester, caplog: pytest.LogCaptureFixture
) -> None:
    interrupted(guest, extended=True)
    guest.registers.extend_register(guest.settings(), 4, bytes(48))
    attester = LocalAttester(
        MeasuredEvidence(GuestEvidence(SampleAttester(), (), None), Measurer(device, guest.settings())), None
    )
    assert await attester.evidence(b"x", DEADLINE)
    assert warnings(caplog) == ["EVENT_LOG_CORRUPT"]


async def test_a_register_that_hangs_costs_its_caller_the_time_and_is_carried_out(
    guest: Guest, device: DeviceAttester, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, usual = threading.Event(), FileRegisters.extend_register

    def slow(self: FileRegisters, *arguments: Any) -> None:
        may_end.wait(10)
        usual(self, *arguments)

    monkeypatch.setattr(FileRegisters, "extend_register", slow)
    measurer = Measurer(device, guest.settings())
    soon = Deadline.after(CLOCK, 0.05)
    assert await code_of(measurer.extend(*EVENT, soon)) is ErrorCode.EVIDENCE_TIMEOUT
    may_end.set()
    # The caller who asks again gets its turn after the first one's event.
    assert await measurer.extend(*EVENT, DEADLINE, once=True) is MeasurementResult.OK
    assert (len(guest.events()), guest.agrees()) == (1, True)


async def test_without_a_measurer_nothing_is_measured() -> None:
    attester = LocalAttester(GuestEvidence(SampleAttester(), (), None), None)
    assert await attester.extend(*EVENT, DEADLINE, once=True) is MeasurementResult.NOT_SUPPORTED
