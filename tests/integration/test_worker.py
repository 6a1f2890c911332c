from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from pathlib import Path

import msgspec
import pytest

from agent.clock import Deadline, SystemClock
from agent.config import limits
from agent.config.model import Attester as Settings
from agent.config.model import Kbs
from agent.errors import AgentError, ErrorCode
from agent.tee import worker

pytestmark = pytest.mark.integration

HOSTILE = (sys.executable, "-I", str(Path(__file__).with_name("hostile_collector.py")))
CLOCK = SystemClock()


async def ask(what: str, seconds: float = 20.0, settings: Settings | None = None) -> bytes:
    deadline = Deadline.after(CLOCK, seconds)
    asked = settings or Settings()
    done = await worker.collect("hostile_modules", asked, what.encode(), deadline, tee="odd", program=HOSTILE)
    return done.evidence


async def refused(what: str, seconds: float = 20.0) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await ask(what, seconds)
    assert caught.value.detail.startswith("odd: ")
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()
    return caught.value


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def gone(pids: list[int]) -> None:
    async with asyncio.timeout(10):
        while any(alive(pid) for pid in pids):  # noqa: ASYNC110 - other processes tell nobody
            await asyncio.sleep(0.005)


async def started(path: Path) -> list[int]:
    ready = Path(f"{path}.done")
    async with asyncio.timeout(20):
        while not ready.exists():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.005)
    return [int(pid) for pid in ready.read_text().split()]


async def test_an_answer_comes_whole_whatever_a_library_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/vendor")
    settings = Settings(sysroot="/sim", kbs=Kbs(url="https://broker", proxy="http://user:secret@proxy"))
    seen = msgspec.json.decode(await ask("answer", 20, settings))
    assert seen["sysroot"] == "/sim"
    assert seen["kbs"] == ""
    assert set(seen["environment"]) <= {"LD_LIBRARY_PATH", "LC_CTYPE"}
    assert 15 < seen["seconds"] < 20


async def test_descriptors_of_the_daemon_stay_there(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        seen = msgspec.json.decode(await ask("answer"))
    # Its three, the answer's copy, and the folder that it lists.
    assert len(seen["descriptors"]) <= 5


async def test_nothing_stays_open_or_alive_after_an_answer() -> None:
    await ask("answer")
    before = descriptors()
    left = msgspec.json.decode(await ask("leave"))
    assert descriptors() == before
    await gone([left])


async def test_one_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    asked = asyncio.ensure_future(refused(f"hang {tmp_path / 'pids'}", 3.0))
    pids = await started(tmp_path / "pids")
    error = await asked
    assert error.code is ErrorCode.EVIDENCE_TIMEOUT
    assert time.monotonic() - began < 4.0
    await gone(pids)


async def test_a_caller_that_leaves_leaves_no_process(tmp_path: Path) -> None:
    before = descriptors()
    asked = asyncio.ensure_future(ask(f"hang {tmp_path / 'pids'}", 60.0))
    pids = await started(tmp_path / "pids")
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await gone(pids)
    assert descriptors() == before


async def test_the_module_can_say_itself_what_took_the_time() -> None:
    error = await refused("late", 2.0)
    assert error.code is ErrorCode.EVIDENCE_TIMEOUT
    assert "device 5" in error.detail


@pytest.mark.parametrize(
    ("what", "code", "told"),
    [
        ("abort", ErrorCode.EVIDENCE_FAILED, "SIGABRT"),
        ("exit", ErrorCode.EVIDENCE_FAILED, "status 3"),
        ("silence", ErrorCode.EVIDENCE_FAILED, "nonsense"),
        ("garbage", ErrorCode.EVIDENCE_FAILED, "nonsense"),
        ("much", ErrorCode.EVIDENCE_FAILED, ""),
        ("fail DEVICE_BUSY", ErrorCode.DEVICE_BUSY, "device says"),
        ("fail QUOTE_PATH_MISSING", ErrorCode.QUOTE_PATH_MISSING, "device says"),
        ("defect password", ErrorCode.INTERNAL, "TypeError in do_defect"),
        ("denied", ErrorCode.EVIDENCE_FAILED, "Permission denied"),
        ("unknown", ErrorCode.INTERNAL, "KeyError"),
    ],
)
async def test_each_way_to_fail_has_its_error(what: str, code: ErrorCode, told: str) -> None:
    error = await refused(what)
    assert error.code is code
    assert told in error.detail
    assert "password" not in error.detail


async def test_what_a_library_prints_is_for_debugging_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await refused("abort")
    printed = [record for record in caplog.records if hasattr(record, "printed")]
    assert [record.levelno for record in printed] == [logging.DEBUG]
    assert "\x1b" not in str(vars(printed[0])["printed"])


async def test_only_tees_are_asked() -> None:
    deadline = Deadline.after(CLOCK, 20)
    with pytest.raises(AgentError) as caught:
        await worker.collect("os", Settings(), b"", deadline)
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED


async def test_a_job_that_is_too_large_is_refused_before_a_process_is_made() -> None:
    error = await refused("x" * limits.COLLECT_JOB_MAX)
    assert error.code is ErrorCode.INVALID_REQUEST


async def test_no_time_left_is_said_at_once() -> None:
    assert (await refused("answer", 0.0)).code is ErrorCode.EVIDENCE_TIMEOUT


async def test_a_program_that_cannot_be_started() -> None:
    deadline = Deadline.after(CLOCK, 20)
    with pytest.raises(AgentError) as caught:
        await worker.collect("m", Settings(), b"", deadline, program=("/no/such/program",))
    assert caught.value.code is ErrorCode.GUEST_EXHAUSTED


async def test_several_at_once() -> None:
    answers = await asyncio.gather(*(ask("answer") for _ in range(4)))
    assert len(answers) == 4
