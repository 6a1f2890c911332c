from __future__ import annotations

from typing import TYPE_CHECKING

from agent.doctor import evidence
from agent.doctor.finding import Verdict
from agent.tee.eventlog.ship import CCEL
from tests.unit.doctor.patients import patient, put

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_firmware_log_that_is_cut_is_bad_although_evidence_carries_the_rest(tmp_path: Path) -> None:
    put(tmp_path, CCEL, b"\x01\0\0\0\x03\0\0\0 no event of any kind")
    looked_at = patient(tmp_path, eventlog_dir=str(tmp_path / "log"))
    found = [each async for each in evidence.event_log(looked_at)]
    bad = [each for each in found if each.verdict is Verdict.BAD]
    assert bad
    assert all(each.next_step for each in bad)
    assert bad[0].name == "content"


async def test_a_missing_firmware_log_is_told_with_what_it_costs(tmp_path: Path) -> None:
    put(tmp_path, "dev/tdx_guest")
    looked_at = patient(tmp_path, eventlog_dir=str(tmp_path / "log"))
    assert looked_at.detection.tee == "tdx"
    (found,) = [each async for each in evidence.event_log(looked_at)]
    assert found.verdict is Verdict.BAD
    assert "eventlog_config.require_firmware_log" in found.next_step
