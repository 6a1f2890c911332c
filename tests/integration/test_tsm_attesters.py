"""The attesters of snp, tdx and cca on simulated kernel interfaces, also in a process of their own."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.clock import Deadline, SystemClock
from agent.config import limits
from agent.config.model import Attester
from agent.devkit.clock import FakeClock
from agent.devkit.configfs_tsm import REPORTS, SHOWN, ConfigfsTsm
from agent.devkit.tdx_sysfs import MEASUREMENTS, TdxMeasurements
from agent.errors import AgentError, ErrorCode
from agent.tee import cca, snp, tdx, tsm
from agent.tee.attesters import DeviceAttester
from agent.tee.evidence import snp_json
from tests.integration.fuse_support import need_fuse
from tests.unit.tee.sev_driver import report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

DATA = bytes(range(48))
PADDED = DATA + bytes(16)


@pytest.fixture(autouse=True)
def fuse_is_there() -> None:
    need_fuse()


def td_quote(inblob: bytes, privlevel: int = 0) -> tuple[bytes, bytes]:
    return struct.pack("<HHI", 4, 2, 0x81).ljust(568, b"\0") + inblob + bytes(70), b""


def snp_report(inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
    raw = bytearray(report(inblob, b"\x0a" * 32))
    raw[0x30] = privlevel
    return bytes(raw), b""


def cca_token(inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
    return b"\xd9\x01\x8f" + inblob, b""


@pytest.fixture
def td(tmp_path: Path) -> Iterator[ConfigfsTsm]:
    made = ConfigfsTsm(tmp_path / REPORTS, "tdx_guest", td_quote, attributes=SHOWN["tdx_guest"])
    with made.mounted() as mounted:
        yield mounted


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[ConfigfsTsm]:
    made = ConfigfsTsm(tmp_path / REPORTS, "sev_guest", snp_report, attributes=SHOWN["sev_guest"])
    with made.mounted() as mounted:
        yield mounted


@pytest.fixture
def here(tmp_path: Path) -> Attester:
    return Attester(sysroot=str(tmp_path), eventlog_dir=str(tmp_path / "log"))


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline.after(SystemClock(), seconds)


def ask(here: Attester, clock: FakeClock | None = None, provider: str = "tdx_guest") -> tsm.TsmReport:
    clock = clock or FakeClock()
    deadline = Deadline.after(clock, 20)
    return tsm.request(here.sysroot, provider, PADDED, deadline, pause=clock.advance)


def fails(act: Callable[[], object]) -> AgentError:
    with pytest.raises(AgentError) as error:
        act()
    return error.value


# --- one request -----------------------------------------------------------------------------------


def test_a_request_leaves_nothing_behind(td: ConfigfsTsm, here: Attester) -> None:
    assert ask(here).outblob == td_quote(PADDED)[0]
    assert (td.made, td.reports, td.entries) == (1, 1, ())


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EINTR])
def test_a_busy_driver_is_asked_again(td: ConfigfsTsm, here: Attester, number: int) -> None:
    td.faults.errors.extend([number] * 5)
    clock = FakeClock()
    assert ask(here, clock).outblob
    assert (td.made, td.reports) == (1, 6)
    if number == errno.EBUSY:  # Python asks by itself after EINTR
        assert clock.boot() > 1000


def test_a_driver_that_stays_busy_costs_no_more_than_the_deadline(td: ConfigfsTsm, here: Attester) -> None:
    td.faults.errors.extend([errno.EBUSY] * 1000)
    clock = FakeClock()
    error = fails(lambda: ask(here, clock))
    assert error.code is ErrorCode.DEVICE_BUSY
    assert 1015 < clock.boot() <= 1020
    assert td.entries == ()


@pytest.mark.parametrize("fault", ["conflicts", "dropped"])
def test_a_conflict_is_resolved_by_a_new_entry(td: ConfigfsTsm, here: Attester, fault: str) -> None:
    setattr(td.faults, fault, 3)
    assert ask(here).outblob == td_quote(PADDED)[0]
    assert (td.made, td.entries) == (4, ())
    setattr(td.faults, fault, 4)
    error = fails(lambda: ask(here))
    assert error.code is ErrorCode.EVIDENCE_FAILED
    assert "inblob" in error.detail
    assert (td.made, td.entries) == (8, ())


def test_a_kernel_that_wants_the_request_again_gets_it(td: ConfigfsTsm, here: Attester) -> None:
    td.faults.errors.append(errno.EAGAIN)
    assert ask(here).outblob
    assert td.made == 2


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ETIMEDOUT, ErrorCode.QUOTE_SERVICE_UNREACHABLE),
        (errno.EIO, ErrorCode.EVIDENCE_FAILED),
        (errno.ENXIO, ErrorCode.QUOTE_PATH_MISSING),
        (errno.EACCES, ErrorCode.DEVICE_FORBIDDEN),
    ],
)
def test_what_cannot_be_helped_is_not_tried_again(
    td: ConfigfsTsm, here: Attester, number: int, code: ErrorCode
) -> None:
    td.faults.errors.extend([number] * 2)
    assert fails(lambda: ask(here)).code is code
    assert (td.made, td.reports, td.entries) == (1, 1, ())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_forbidden_folder_is_named(td: ConfigfsTsm, here: Attester, number: int) -> None:
    td.faults.mkdir = number
    error = fails(lambda: ask(here))
    assert error.code is ErrorCode.DEVICE_FORBIDDEN
    assert REPORTS in error.detail
    assert "0755" in error.detail


def test_no_quote_means_no_quoting_service(td: ConfigfsTsm, here: Attester) -> None:
    td.faults.empty = True
    error = fails(lambda: ask(here))
    assert error.code is ErrorCode.QUOTE_SERVICE_UNREACHABLE
    assert "QGS" in error.detail


def test_another_driver_is_named(td: ConfigfsTsm, here: Attester) -> None:
    error = fails(lambda: ask(here, provider="sev_guest"))
    assert error.code is ErrorCode.QUOTE_PATH_MISSING
    assert "'tdx_guest\\n'" in error.detail
    td.provider = None
    error = fails(lambda: ask(here))
    assert error.code is ErrorCode.QUOTE_PATH_MISSING
    assert "no provider" in error.detail
    assert td.entries == ()


def test_a_blob_without_end_is_refused(tmp_path: Path, here: Attester) -> None:
    def huge(inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
        return bytes(limits.TSM_MAX_BLOB + 1), b""

    with ConfigfsTsm(tmp_path / REPORTS, "tdx_guest", huge).mounted() as td:
        error = fails(lambda: ask(here))
        assert error.code is ErrorCode.EVIDENCE_MALFORMED
        assert td.entries == ()


def test_requests_at_the_same_time_get_their_own_reports(td: ConfigfsTsm, here: Attester) -> None:
    def one(number: int) -> bool:
        inblob = bytes([number]) * 64
        return tsm.request(here.sysroot, "tdx_guest", inblob, soon()).outblob[568:632] == inblob

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(24)))
    assert (td.made, td.entries) == (24, ())


# --- the attesters ---------------------------------------------------------------------------------


def test_snp_by_configfs_names_its_level(vm: ConfigfsTsm, here: Attester) -> None:
    parsed, certificates = snp_json.decode(snp.collect(here, DATA, soon()))
    assert (parsed.report_data, parsed.vmpl, certificates) == (PADDED, 0, ())
    vm.privlevel_floor = 2
    error = fails(lambda: snp.collect(here, DATA, soon()))
    assert error.code is ErrorCode.CONFIG_INVALID
    assert "from 2 to 3" in error.detail
    higher = Attester(sysroot=here.sysroot, snp_vmpl=2)
    assert snp_json.decode(snp.collect(higher, DATA, soon()))[0].vmpl == 2
    assert vm.entries == ()


def test_snp_init_data_by_configfs(vm: ConfigfsTsm, here: Attester) -> None:
    snp.bind_init_data(here, b"\x0a" * 48)
    assert fails(lambda: snp.bind_init_data(here, b"\x0b" * 48)).code is ErrorCode.INIT_DATA_MISMATCH
    assert vm.entries == ()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOTTY, ErrorCode.DEVICE_KEY_WIPED),
        (errno.ETIMEDOUT, ErrorCode.DEVICE_BUSY),
        (errno.EINVAL, ErrorCode.CONFIG_INVALID),
        (errno.EIO, ErrorCode.EVIDENCE_FAILED),
    ],
)
def test_snp_troubles_by_configfs(vm: ConfigfsTsm, here: Attester, number: int, code: ErrorCode) -> None:
    vm.faults.errors.append(number)
    assert fails(lambda: snp.collect(here, DATA, soon())).code is code


def test_tdx_evidence(td: ConfigfsTsm, here: Attester) -> None:
    evidence = msgspec.json.decode(tdx.collect(here, DATA, soon()))
    assert set(evidence) == {"cc_eventlog", "quote"}
    assert evidence["cc_eventlog"] is None
    assert base64.b64decode(evidence["quote"]) == td_quote(PADDED)[0]


def test_tdx_refuses_a_quote_over_other_data(tmp_path: Path, here: Attester) -> None:
    made = ConfigfsTsm(tmp_path / REPORTS, "tdx_guest", lambda inblob, _: td_quote(inblob[::-1]))
    with made.mounted():
        error = fails(lambda: tdx.collect(here, DATA, soon()))
    assert error.code is ErrorCode.EVIDENCE_FAILED
    assert "other report data" in error.detail


def test_cca_evidence(tmp_path: Path, here: Attester) -> None:
    with ConfigfsTsm(tmp_path / REPORTS, "arm_cca_guest", cca_token).mounted():
        evidence = msgspec.json.decode(cca.collect(here, DATA, soon()))
    assert evidence == {"token": list(cca_token(PADDED, 0)[0])}


def test_cca_refuses_a_token_over_other_data(tmp_path: Path, here: Attester) -> None:
    with ConfigfsTsm(tmp_path / REPORTS, "arm_cca_guest", lambda inblob, _: (inblob[::-1], b"")).mounted():
        assert fails(lambda: cca.collect(here, DATA, soon())).code is ErrorCode.EVIDENCE_FAILED


def test_tdx_registers(tmp_path: Path, here: Attester) -> None:
    with TdxMeasurements(tmp_path / MEASUREMENTS, {"mrconfigid": b"\x05" * 48}).mounted() as registers:
        assert tdx.measurement_problem(here) is None
        digest = hashlib.sha384(b"event").digest()
        tdx.extend_register(here, 4, digest)
        assert tdx.read_register(here, 4) == hashlib.sha384(bytes(48) + digest).digest()
        assert tdx.read_register(here, 1) == bytes(48)
        tdx.bind_init_data(here, b"\x05" * 64)
        assert fails(lambda: tdx.bind_init_data(here, b"\x05" * 32)).code is ErrorCode.INIT_DATA_MISMATCH
        for number, code in (
            (errno.EBUSY, ErrorCode.DEVICE_BUSY),
            (errno.EPERM, ErrorCode.DEVICE_FORBIDDEN),
            (errno.EIO, ErrorCode.EVIDENCE_FAILED),
        ):
            before = registers.rtmrs()
            registers.errors["rtmr0:sha384"] = number
            assert fails(lambda: tdx.extend_register(here, 1, digest)).code is code
            assert registers.rtmrs() == before


# --- in the process that can be killed -------------------------------------------------------------


async def test_each_attester_works_in_its_own_process(tmp_path: Path, here: Attester) -> None:
    for tee, provider, quote in (
        ("snp", "sev_guest", snp_report),
        ("tdx", "tdx_guest", td_quote),
        ("cca", "arm_cca_guest", cca_token),
    ):
        with ConfigfsTsm(tmp_path / REPORTS, provider, quote).mounted() as mounted:
            attester = DeviceAttester(tee, here)
            assert msgspec.json.decode(await attester.collect(DATA, soon()))
            assert mounted.entries == ()
            mounted.faults.errors.append(errno.EIO)
            with pytest.raises(AgentError) as error:
                await attester.collect(DATA, soon())
            assert error.value.code is ErrorCode.EVIDENCE_FAILED
            assert mounted.entries == ()


async def test_a_quote_that_hangs_costs_the_deadline(td: ConfigfsTsm, here: Attester) -> None:
    td.faults.hang = True
    with pytest.raises(AgentError) as error:
        await DeviceAttester("tdx", here).collect(DATA, soon(2))
    assert error.value.code is ErrorCode.EVIDENCE_TIMEOUT


async def test_what_a_killed_request_left_is_removed_by_the_next(td: ConfigfsTsm, here: Attester) -> None:
    attester = DeviceAttester("tdx", here)
    td.faults.hang = True
    asking = asyncio.ensure_future(attester.collect(DATA, soon(60)))
    assert await asyncio.to_thread(td.hanging.wait, 50)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert td.made == 1
    assert len(list(td.mountpoint.iterdir())) == 1
    td.faults.hang = False
    assert await attester.collect(DATA, soon())
    assert (td.made, td.entries) == (2, ())
