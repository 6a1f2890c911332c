"""The attesters of vTPMs against swtpm and a metadata service of our own."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import struct
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from agent.clock import Deadline, SystemClock
from agent.config.model import Attester
from agent.devkit import hcl
from agent.devkit.imds import CERTIFICATION, TD_QUOTE, Imds
from agent.devkit.vtpm import Vtpm
from agent.errors import AgentError, ErrorCode
from agent.tee import az_snp_vtpm, az_tdx_vtpm, imds, tpm
from agent.tee.attesters import DeviceAttester
from agent.tee.evidence import az_json, tpm_json
from agent.tee.evidence.hcl import ReportType, parse_hcl
from agent.tee.evidence.tpm import bound_init_data
from agent.tee.evidence.verdict import holds
from agent.tee.platform import detect
from agent.tee.tpm2 import client
from agent.tee.tpm2.device import Tpm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

    from agent.tee.platform import Detection

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        "CI" not in os.environ and shutil.which("swtpm") is None, reason="swtpm is not installed"
    ),
]

REPORT_DATA = bytes(range(48))
DIGEST = hashlib.sha256(b"init-data").digest()
AZURE_TAG = "sys/devices/virtual/dmi/id/chassis_asset_tag"


def soon(seconds: float = 10.0) -> Deadline:
    return Deadline.after(SystemClock(), seconds)


@pytest.fixture(scope="module")
def certificate() -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "SEV-VCEK")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    now = datetime(2026, 1, 1, tzinfo=UTC)
    builder = builder.not_valid_before(now).not_valid_after(now.replace(year=2033))
    return builder.sign(key, SHA256())


@pytest.fixture
def service(certificate: x509.Certificate) -> Iterator[Imds]:
    pem = certificate.public_bytes(Encoding.PEM).decode()
    with Imds((pem, pem), quote=lambda report: b"quote of " + report[128:192]) as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path, service: Imds) -> Attester:
    return Attester(sysroot=str(tmp_path), imds_url=service.url, init_pcr=15)


@pytest.fixture
def snp(tmp_path: Path) -> Iterator[Vtpm]:
    with Vtpm(tmp_path, ReportType.SNP) as running:
        yield running


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Vtpm]:
    with Vtpm(tmp_path) as running:
        yield running


def refused(code: ErrorCode, work: Callable[[], object]) -> str:
    with pytest.raises(AgentError) as caught:
        work()
    assert caught.value.code is code, caught.value
    return caught.value.detail


def look(settings: Attester) -> Detection:
    return detect(settings.sysroot, {}, "x86_64", settings)


# --- evidence ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 32, 48, 64])
def test_snp_evidence_binds_the_report_data_twice(
    snp: Vtpm, settings: Attester, certificate: x509.Certificate, size: int
) -> None:
    report_data = bytes(range(1, size + 1))
    az_snp_vtpm.bind_init_data(settings, DIGEST)
    found = az_json.decode(az_snp_vtpm.collect(settings, report_data, soon()))
    assert holds(az_json.verify(found, report_data, DIGEST))
    assert found.certificates == (certificate.public_bytes(Encoding.DER),)
    assert len(found.hcl_report) == 2600
    wrong = bytes([report_data[0] ^ 1]) + report_data[1:]
    failed = {each.name for each in az_json.verify(found, wrong, DIGEST) if not each.passed}
    assert failed == {"TPM quote nonce", "user data"}


def test_report_data_of_another_size_gets_an_index_of_that_size(snp: Vtpm, settings: Attester) -> None:
    for report_data in (b"a" * 48, b"b" * 64, b"c" * 20, b"d" * 20):
        found = az_json.decode(az_snp_vtpm.collect(settings, report_data, soon()))
        assert all(each.passed is not False for each in az_json.verify(found, report_data, None))


def test_report_data_that_does_not_fit_is_refused_before_anything_is_written(
    snp: Vtpm, settings: Attester
) -> None:
    for report_data in (b"", bytes(65)):
        refused(ErrorCode.INVALID_REQUEST, partial(az_snp_vtpm.collect, settings, report_data, soon()))
    assert client.nv_size(snp, 0x01400002) is None


def test_tdx_evidence_has_the_quote_of_its_own_tdreport(tmp_path: Path, settings: Attester) -> None:
    with Vtpm(tmp_path, ReportType.TDX):
        document = json.loads(az_tdx_vtpm.collect(settings, REPORT_DATA, soon()))
    found = az_json.decode(json.dumps(document).encode())
    report = parse_hcl(found.hcl_report)
    assert found.td_quote == b"quote of " + report.report_data
    assert (found.tee, set(document)) == ("az-tdx-vtpm", {"version", "tpm_quote", "hcl_report", "td_quote"})


def test_the_guest_s_own_attester_refuses_the_other_tee(snp: Vtpm, settings: Attester) -> None:
    detail = refused(ErrorCode.TEE_NOT_SUPPORTED, lambda: az_tdx_vtpm.collect(settings, REPORT_DATA, soon()))
    assert "SNP" in detail


def test_plain_evidence_binds_32_bytes(plain: Vtpm, settings: Attester) -> None:
    tpm.bind_init_data(settings, DIGEST)
    for report_data in (REPORT_DATA, b"short", b""):
        found = tpm_json.decode(tpm.collect(settings, report_data, soon()))
        assert holds(tpm_json.verify(found, report_data, DIGEST))
    assert not holds(tpm_json.verify(found, b"other", DIGEST))


# --- the paravisor ----------------------------------------------------------------------------------
def test_a_report_that_is_renewed_late_is_waited_for(tmp_path: Path, settings: Attester) -> None:
    with Vtpm(tmp_path, ReportType.SNP, renew_every=0.7) as vtpm:
        az_snp_vtpm.collect(settings, b"a" * 48, soon())
        begun = time.monotonic()
        found = az_json.decode(az_snp_vtpm.collect(settings, b"b" * 48, soon()))
        waited = time.monotonic() - begun
        assert all(each.passed is not False for each in az_json.verify(found, b"b" * 48, None))
        assert vtpm.renewals == 3  # one at the start, one each
    assert waited > 0.4  # it would have sent the old report otherwise


def test_a_report_that_is_never_renewed_ends_in_time_and_says_so(snp: Vtpm, settings: Attester) -> None:
    snp.faults.frozen = True
    begun = time.monotonic()
    detail = refused(
        ErrorCode.EVIDENCE_TIMEOUT, lambda: az_snp_vtpm.collect(settings, REPORT_DATA, soon(1.5))
    )
    assert time.monotonic() - begun < 1.5  # with time left to say it
    assert "not renewed" in detail


def test_a_report_without_user_data_is_not_waited_for(tmp_path: Path, settings: Attester) -> None:
    with Vtpm(tmp_path, ReportType.SNP, user_data=False):
        detail = refused(
            ErrorCode.TEE_NOT_SUPPORTED, lambda: az_snp_vtpm.collect(settings, REPORT_DATA, soon())
        )
    assert "too old" in detail


def test_a_report_whose_parts_do_not_fit_is_not_sent(tmp_path: Path, settings: Attester) -> None:
    with Vtpm(tmp_path, ReportType.SNP, lambda data: hcl.unsigned_hardware(ReportType.SNP, bytes(64))):
        detail = refused(
            ErrorCode.EVIDENCE_TIMEOUT, lambda: az_snp_vtpm.collect(settings, REPORT_DATA, soon(1.0))
        )
    assert "do not fit" in detail


def test_the_quote_must_be_of_the_key_that_the_report_names(snp: Vtpm, settings: Attester) -> None:
    snp.ak = (snp.ak[0] ^ (1 << 1000), snp.ak[1])
    detail = refused(ErrorCode.EVIDENCE_FAILED, lambda: az_snp_vtpm.collect(settings, REPORT_DATA, soon()))
    assert "0x81000003" in detail


def test_several_at_once_do_not_get_each_other_s_user_data(snp: Vtpm, settings: Attester) -> None:
    results: dict[bytes, bytes] = {}

    def ask(report_data: bytes) -> None:
        results[report_data] = az_snp_vtpm.collect(settings, report_data, soon())

    asked = [bytes([number]) * 48 for number in range(1, 5)]
    threads = [threading.Thread(target=ask, args=(report_data,)) for report_data in asked]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for report_data in asked:
        checks = az_json.verify(az_json.decode(results[report_data]), report_data, None)
        assert all(each.passed is not False for each in checks)


def test_who_waits_for_the_tpm_waits_until_its_deadline(plain: Vtpm, settings: Attester) -> None:
    with Tpm(settings, soon()):
        detail = refused(ErrorCode.DEVICE_BUSY, lambda: tpm.collect(settings, REPORT_DATA, soon(0.2)))
    assert "held by another" in detail
    assert tpm.collect(settings, REPORT_DATA, soon())


# --- the TPM ----------------------------------------------------------------------------------------
def test_pcrs_that_move_once_cost_another_quote(snp: Vtpm, settings: Attester) -> None:
    snp.faults.moves = 1
    found = az_json.decode(az_snp_vtpm.collect(settings, REPORT_DATA, soon()))
    assert all(each.passed is not False for each in az_json.verify(found, REPORT_DATA, None))
    assert any(found.pcrs[16])


def test_pcrs_that_keep_moving_are_an_error(plain: Vtpm, settings: Attester) -> None:
    plain.faults.moves = 100
    detail = refused(ErrorCode.EVIDENCE_FAILED, lambda: tpm.collect(settings, REPORT_DATA, soon()))
    assert "PCRs" in detail


@pytest.mark.parametrize(("module", "kind"), [(az_snp_vtpm, ReportType.SNP), (tpm, None)])
def test_a_missing_key_is_named(
    tmp_path: Path, settings: Attester, module: ModuleType, kind: ReportType | None
) -> None:
    with Vtpm(tmp_path, kind, ak=False):
        detail = refused(ErrorCode.QUOTE_PATH_MISSING, lambda: module.collect(settings, REPORT_DATA, soon()))
    assert ("0x81000003" if kind else "0x81010002") in detail


def test_a_tpm_that_says_again_is_asked_again(plain: Vtpm, settings: Attester) -> None:
    plain.faults.again = 4
    assert tpm.collect(settings, REPORT_DATA, soon())
    plain.faults.again = 10**9
    detail = refused(ErrorCode.DEVICE_BUSY, lambda: tpm.collect(settings, REPORT_DATA, soon(0.3)))
    assert "TPM_RC_RETRY" in detail


def test_a_tpm_that_hangs_is_left_at_the_deadline(plain: Vtpm, settings: Attester) -> None:
    plain.faults.hang = True
    begun = time.monotonic()
    detail = refused(ErrorCode.EVIDENCE_TIMEOUT, lambda: tpm.collect(settings, REPORT_DATA, soon(0.3)))
    assert time.monotonic() - begun < 3
    assert "ReadPublic" in detail


def test_no_tpm_is_named(settings: Attester) -> None:
    detail = refused(ErrorCode.QUOTE_PATH_MISSING, lambda: tpm.collect(settings, REPORT_DATA, soon()))
    assert "/dev/tpmrm0 or /dev/tpm0" in detail


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (errno.EACCES, ErrorCode.DEVICE_FORBIDDEN),
        (errno.EPERM, ErrorCode.DEVICE_FORBIDDEN),
        (errno.EBUSY, ErrorCode.DEVICE_BUSY),
        (errno.ENXIO, ErrorCode.QUOTE_PATH_MISSING),
        (errno.EIO, ErrorCode.EVIDENCE_FAILED),
    ],
)
def test_a_tpm_that_does_not_open_says_why(
    tmp_path: Path, settings: Attester, monkeypatch: pytest.MonkeyPatch, reason: int, code: ErrorCode
) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/tpm0").touch(mode=0o640)

    def no_open(path: object, *rest: object) -> int:
        raise OSError(reason, os.strerror(reason), str(path))

    monkeypatch.setattr(os, "open", no_open)
    detail = refused(code, lambda: tpm.collect(settings, REPORT_DATA, soon(0.2)))
    monkeypatch.undo()
    assert "/dev/tpm0" in detail
    assert ("mode 0640" in detail) == (code is ErrorCode.DEVICE_FORBIDDEN)


@pytest.mark.parametrize("answer", [b"", b"\x80\x01", struct.pack(">HII", 0x8001, 5000, 0) + bytes(5000)])
def test_answers_that_are_none_are_an_error(tmp_path: Path, settings: Attester, answer: bytes) -> None:
    with Vtpm(tmp_path) as vtpm:
        vtpm._answer = lambda data: answer  # type: ignore[method-assign]
        threading.Timer(0.2, vtpm._close_clients).start()
        with pytest.raises(AgentError) as caught:
            tpm.collect(settings, REPORT_DATA, soon(3))
    assert caught.value.code in {ErrorCode.EVIDENCE_FAILED, ErrorCode.EVIDENCE_MALFORMED}


# --- init-data and registers ------------------------------------------------------------------------
def test_init_data_is_bound_once_however_often_it_is_asked(plain: Vtpm, settings: Attester) -> None:
    for _ in range(3):
        tpm.bind_init_data(settings, DIGEST)
        assert tpm.read_register(settings, 8) == bound_init_data(DIGEST)


def test_other_init_data_is_refused_and_changes_nothing(plain: Vtpm, settings: Attester) -> None:
    tpm.bind_init_data(settings, DIGEST)
    detail = refused(ErrorCode.INIT_DATA_MISMATCH, lambda: tpm.bind_init_data(settings, bytes(32)))
    bound = bound_init_data(DIGEST)
    assert bound is not None
    assert bound.hex() in detail
    assert tpm.read_register(settings, 8) == bound


@pytest.mark.parametrize("size", [48, 64, 31, 0])
def test_a_digest_that_does_not_fit_extends_nothing(plain: Vtpm, settings: Attester, size: int) -> None:
    detail = refused(ErrorCode.CONFIG_INVALID, lambda: tpm.bind_init_data(settings, bytes(size)))
    assert 'algorithm = "sha256"' in detail
    assert tpm.read_register(settings, 8) == bytes(32)


@pytest.mark.parametrize("module", [az_snp_vtpm, az_tdx_vtpm, tpm])
def test_registers_are_extended_as_the_sheet_says(
    plain: Vtpm, settings: Attester, module: ModuleType
) -> None:
    assert module.ALGORITHM == "sha256"
    assert module.measurement_problem(settings) is None
    before = module.read_register(settings, 15)
    module.extend_register(settings, 15, DIGEST)
    assert module.read_register(settings, 15) == hashlib.sha256(before + DIGEST).digest()


def test_upstream_s_default_register_is_the_tpm_s_own(plain: Vtpm, settings: Attester) -> None:
    """PCR 17 belongs to the dynamic launch: no operating system extends it."""
    assert tpm.measurement_problem(Attester(sysroot=settings.sysroot)) is None
    assert tpm.DEFAULT_PCR == 15  # stands in for it
    problem = tpm.measurement_problem(Attester(sysroot=settings.sysroot, init_pcr=18))
    assert problem is not None
    assert "PCR 18" in problem
    assert "init_pcr" in problem
    refused(ErrorCode.INVALID_REQUEST, lambda: tpm.extend_register(settings, 17, DIGEST))
    assert tpm.read_register(settings, 17) == b"\xff" * 32


def test_nothing_but_init_data_goes_into_pcr_8(plain: Vtpm, settings: Attester) -> None:
    refused(ErrorCode.INVALID_REQUEST, lambda: tpm.extend_register(settings, 8, DIGEST))
    refused(ErrorCode.INVALID_REQUEST, lambda: tpm.extend_register(settings, 256, DIGEST))
    refused(ErrorCode.INVALID_REQUEST, lambda: tpm.extend_register(settings, 15, bytes(48)))
    assert tpm.read_register(settings, 8) == bytes(32)
    problem = tpm.measurement_problem(Attester(sysroot=settings.sysroot, init_pcr=8))
    assert problem is not None
    assert "PCR 8" in problem


def test_without_a_tpm_there_are_no_registers(settings: Attester) -> None:
    problem = tpm.measurement_problem(settings)
    assert problem is not None
    assert "does not exist" in problem


# --- the metadata service ---------------------------------------------------------------------------
def test_a_service_that_is_down_is_named(snp: Vtpm, tmp_path: Path) -> None:
    with Imds() as gone:
        pass
    settings = Attester(sysroot=str(tmp_path), imds_url=gone.url)
    detail = refused(
        ErrorCode.QUOTE_SERVICE_UNREACHABLE, lambda: az_snp_vtpm.collect(settings, REPORT_DATA, soon())
    )
    assert gone.url + CERTIFICATION in detail
    assert "refused" in detail


def test_a_service_that_drips_is_left_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)

        def drip() -> None:
            opened, _ = listener.accept()
            with opened, suppress(OSError):
                opened.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while True:
                    opened.sendall(b" ")
                    time.sleep(0.05)

        thread = threading.Thread(target=drip)
        thread.start()
        settings = Attester(imds_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        begun = time.monotonic()
        detail = refused(ErrorCode.QUOTE_SERVICE_UNREACHABLE, lambda: imds.vcek(settings, soon(0.4)))
        assert time.monotonic() - begun < 3
        assert "in time" in detail
        thread.join()


def test_a_busy_service_is_asked_again(settings: Attester, service: Imds) -> None:
    service.faults.busy = 2
    assert imds.vcek(settings, soon())
    assert service.asked[CERTIFICATION] == 3


@pytest.mark.parametrize("status", [404, 500, 429, 302])
def test_a_service_that_does_not_know_is_an_error(settings: Attester, service: Imds, status: int) -> None:
    service.faults.status = status
    for ask in (lambda: imds.vcek(settings, soon()), lambda: imds.td_quote(settings, bytes(1024), soon())):
        assert f"status {status}" in refused(ErrorCode.QUOTE_SERVICE_UNREACHABLE, ask)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"vcekCert":""}',
        b'{"vcekCert":"x","quote":"*"}',
        b'{"quote":""}',
        b"[" * 9999,
        b" " * 300_000,
    ],
    ids=lambda body: body[:12].decode(),
)
def test_answers_that_make_no_sense_are_an_error(settings: Attester, service: Imds, body: bytes) -> None:
    service.faults.body = body
    refused(ErrorCode.QUOTE_SERVICE_UNREACHABLE, lambda: imds.vcek(settings, soon()))
    refused(ErrorCode.QUOTE_SERVICE_UNREACHABLE, lambda: imds.td_quote(settings, bytes(1024), soon()))


@pytest.mark.parametrize("url_quote", [False, True])
@pytest.mark.parametrize("unpadded_only", [False, True])
def test_both_spellings_of_report_and_quote_work(
    settings: Attester, service: Imds, url_quote: bool, unpadded_only: bool
) -> None:
    service.faults.url_quote, service.faults.unpadded_only = url_quote, unpadded_only
    report = b"\xfb\xff\xfe" * 341 + b"\xff"
    assert imds.td_quote(settings, report, soon()) == b"quote of " + report[128:192]
    assert service.asked[TD_QUOTE] == 1 + unpadded_only


def test_no_proxy_is_asked(settings: Attester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert imds.vcek(settings, soon())


@pytest.mark.parametrize("url", ["", "https://a", "ftp://a", "http://", "http://a:x", "http://a/?b"])
def test_a_url_that_is_none_is_a_matter_of_configuration(url: str) -> None:
    refused(ErrorCode.CONFIG_INVALID, lambda: imds.vcek(Attester(imds_url=url), soon()))


# --- detection --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "tee"), [(ReportType.SNP, "az-snp-vtpm"), (ReportType.TDX, "az-tdx-vtpm")])
def test_azure_s_tees_are_told_apart(tmp_path: Path, kind: ReportType, tee: str) -> None:
    with Vtpm(tmp_path, kind) as vtpm:
        before = vtpm.renewals
        found = look(Attester(sysroot=str(tmp_path)))
        assert vtpm.renewals == before  # looking does not use up the paravisor's next report
    assert (found.tee, found.possible, found.devices) == (tee, (), ())


def test_a_tpm_with_a_key_is_a_platform_of_its_own(plain: Vtpm, tmp_path: Path) -> None:
    settings = Attester(sysroot=str(tmp_path), expected_devices=("tpm",))
    assert (look(settings).tee, look(settings).devices) == ("tpm", ())
    other = Attester(sysroot=str(tmp_path), tpm_ak_handle=0x81010099)
    assert look(other).tee is None
    assert any("0x81010099" in each.reason for each in look(other).trail)


def test_a_tpm_beside_another_tee_is_a_device_only_when_expected(plain: Vtpm, tmp_path: Path) -> None:
    (tmp_path / "sys/devices/platform/sev-guest").mkdir(parents=True)
    assert look(Attester(sysroot=str(tmp_path))).devices == ()
    expected = Attester(sysroot=str(tmp_path), expected_devices=("tpm:1",))
    assert (look(expected).tee, look(expected).devices) == ("snp", ("tpm",))
    (tmp_path / "dev/tdx_guest").touch()
    assert (look(expected).tee, look(expected).devices) == ("tdx", ())


def test_an_azure_guest_is_none_only_if_its_tpm_says_so(plain: Vtpm, tmp_path: Path) -> None:
    tag = tmp_path / AZURE_TAG
    tag.parent.mkdir(parents=True)
    tag.write_bytes(b"7783-7084-3265-9085-8269-3286-77\n")
    settings = Attester(sysroot=str(tmp_path))
    assert (look(settings).tee, look(settings).possible) == ("tpm", ())
    plain.faults.hang = True
    begun = time.monotonic()
    found = look(settings)
    assert time.monotonic() - begun < 6
    assert (found.tee, found.possible) == (None, ("az-tdx-vtpm", "az-snp-vtpm"))


@pytest.mark.parametrize("size", [100, 1300])
def test_another_owner_s_index_is_not_azure_s(plain: Vtpm, tmp_path: Path, size: int) -> None:
    client.nv_store(plain, 0x01400001, b"x" * size)
    assert look(Attester(sysroot=str(tmp_path))).tee == "tpm"


# --- as the daemon does it ----------------------------------------------------------------------------
async def test_the_collecting_process_gives_the_same(snp: Vtpm, settings: Attester) -> None:
    attester = DeviceAttester("az-snp-vtpm", settings)
    found = az_json.decode(await attester.collect(REPORT_DATA, soon(30)))
    assert all(each.passed is not False for each in az_json.verify(found, REPORT_DATA, None))
    await attester.bind_init_data(DIGEST, soon())
    assert attester.registers is not None


async def test_a_tpm_that_hangs_is_named_by_the_collecting_process(plain: Vtpm, settings: Attester) -> None:
    plain.faults.hang = True
    with pytest.raises(AgentError) as caught:
        await DeviceAttester("tpm", settings).collect(REPORT_DATA, soon(3))
    assert caught.value.code is ErrorCode.EVIDENCE_TIMEOUT


async def test_what_the_tpm_refused_is_said_by_the_collecting_process(
    tmp_path: Path, settings: Attester
) -> None:
    with Vtpm(tmp_path, ak=False), pytest.raises(AgentError) as caught:
        await DeviceAttester("tpm", settings).collect(REPORT_DATA, soon(30))
    assert caught.value.code is ErrorCode.QUOTE_PATH_MISSING
    assert "0x81010002" in caught.value.detail
