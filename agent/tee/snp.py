"""Evidence of AMD SEV-SNP guests (attesters.md 2): ``/dev/sev-guest``, or else configfs-tsm."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING, Final

from agent.clock import Deadline, SystemClock
from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee import sev_guest, tsm
from agent.tee.backoff import Backoff
from agent.tee.base import pad, regularize
from agent.tee.evidence import snp_json
from agent.tee.evidence.snp import parse_certificates, parse_report
from agent.tee.evidence.snp_table import for_verifier

if TYPE_CHECKING:
    from agent.config.model import Attester as Settings
    from agent.tee.sev_guest import Ioctl

PROVIDER: Final = "sev_guest"
_REPORT_DATA: Final = 64
_HOST_DATA: Final = 32


def collect(
    settings: Settings, report_data: bytes, deadline: Deadline, *, ioctl: Ioctl = fcntl.ioctl
) -> bytes:
    """The report and the host's certificates as JSON (attesters.md 2.4), the signing key's first.

    Args:
        settings: ``sysroot``, ``snp_vmpl``.
        report_data: padded with zeros to 64 bytes.
        deadline: when the caller stops waiting.
        ioctl: ``fcntl.ioctl``, or what a test puts in its place.

    Raises:
        AgentError: INVALID_REQUEST, QUOTE_PATH_MISSING, DEVICE_FORBIDDEN, DEVICE_BUSY, DEVICE_KEY_WIPED,
            CONFIG_INVALID (snp_vmpl), EVIDENCE_TIMEOUT, EVIDENCE_MALFORMED, EVIDENCE_FAILED.
    """
    wanted = pad(report_data, _REPORT_DATA)
    raw, table = _ask(settings, wanted, deadline, ioctl, certificates=True)
    report = parse_report(raw)
    # T-TEE-37: the field a verifier looks at, checked where a mix-up can still be told.
    if report.report_data != wanted:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, "the SNP report carries other report data than ours")
    # A host without certificates gives no table, or one of zeros.
    certificates = parse_certificates(table) if table else ()
    return snp_json.encode(report, for_verifier(report.signing_key, certificates))


def bind_init_data(settings: Settings, digest: bytes, *, ioctl: Ioctl = fcntl.ioctl) -> None:
    """Compare the digest, cut or padded to 32 bytes, with HOSTDATA (attesters.md 16.3).

    Raises:
        AgentError: INIT_DATA_MISMATCH, or as :func:`collect`.
    """
    deadline = Deadline.after(SystemClock(), limits.BIND_DEADLINE)
    raw, _ = _ask(settings, bytes(_REPORT_DATA), deadline, ioctl, certificates=False)
    host_data = parse_report(raw).host_data
    if host_data != regularize(digest, _HOST_DATA):
        raise AgentError(
            ErrorCode.INIT_DATA_MISMATCH,
            f"HOSTDATA is {host_data.hex()}, the init-data's digest is {digest.hex()}",
        )


def _ask(
    settings: Settings, user_data: bytes, deadline: Deadline, ioctl: Ioctl, *, certificates: bool
) -> tuple[bytes, bytes | None]:
    with sev_guest.opened(settings.sysroot) as device:
        if device is not None:
            driver = sev_guest.SevGuest(device, settings.snp_vmpl, Backoff(deadline), ioctl)
            return driver.extended(user_data) if certificates else (driver.report(user_data), None)
    try:
        # The level is always named: the kernel then refuses one that the security processor would refuse.
        answer = tsm.request(
            settings.sysroot, PROVIDER, user_data, deadline, privlevel=settings.snp_vmpl, aux=certificates
        )
    except AgentError as error:
        if error.code is not ErrorCode.QUOTE_PATH_MISSING:
            raise
        raise AgentError(error.code, f"no /{sev_guest.DEVICE}, and {error.detail}") from None
    return answer.outblob, answer.auxblob
