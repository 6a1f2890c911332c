"""``snp`` and ``tdx``: configfs-tsm and sysfs in FUSE."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from agent.config.model import Attester
from agent.devkit.configfs_tsm import REPORTS, SHOWN, ConfigfsTsm
from agent.devkit.evidence_pki import AmdSigner, IntelSigner, TdState
from agent.devkit.guests import firmware
from agent.devkit.guests.base import SimulatedGuest, need_fuse
from agent.devkit.tdx_sysfs import MEASUREMENTS, TdxMeasurements
from agent.tee.eventlog.ship import CCEL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SEV_GUEST: Final = "sys/devices/platform/sev-guest"
_SNP: Final = "sev_guest"
_TDX: Final = "tdx_guest"


@contextmanager
def snp(folder: Path, init_digest: bytes) -> Iterator[SimulatedGuest]:
    """A SEV-SNP guest whose kernel offers configfs-tsm; the host supplies the certificates.

    Args:
        folder: empty; becomes sysroot and more.
        init_digest: HOSTDATA, cut or padded; empty for zeros.
    """
    need_fuse("snp")
    signer = AmdSigner()
    state = signer.guest(init_digest)
    root = folder / "root"
    (root / _SEV_GUEST).mkdir(parents=True)

    def quote(inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
        return signer.report(state, inblob, privlevel), signer.table()

    with ConfigfsTsm(root / REPORTS, _SNP, quote, attributes=SHOWN[_SNP]).mounted():
        yield SimulatedGuest("snp", str(root), Attester(sysroot=str(root)), signer.roots)


@contextmanager
def tdx(folder: Path, init_digest: bytes) -> Iterator[SimulatedGuest]:
    """A TDX guest of Linux 6.16: configfs-tsm, measurement registers in sysfs, a firmware log.

    Args:
        folder: empty; becomes sysroot and more.
        init_digest: MRCONFIGID, cut or padded; empty for zeros.
    """
    need_fuse("tdx")
    signer, booted = IntelSigner(), firmware.boot()
    root = folder / "root"
    table = root / CCEL
    table.parent.mkdir(parents=True)
    table.write_bytes(booted.ccel)
    mrconfigid = init_digest[:48].ljust(48, b"\0")
    values = {f"rtmr{number}:sha384": value for number, value in enumerate(booted.rtmrs)}
    values |= {"mrconfigid": mrconfigid, "mrtd:sha384": TdState().mrtd}
    registers = TdxMeasurements(root / MEASUREMENTS, values)

    def quote(inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
        del privlevel
        first, second, third, last = registers.rtmrs()
        state = TdState(mrconfigid=mrconfigid, rtmrs=(first, second, third, last))
        return signer.quote(signer.tdreport(state, inblob), padding=70), b""

    settings = Attester(sysroot=str(root), eventlog_dir=str(folder / "eventlog"), enable_eventlog=True)
    with (
        registers.mounted(),
        ConfigfsTsm(root / REPORTS, _TDX, quote, attributes=SHOWN[_TDX]).mounted(),
    ):
        yield SimulatedGuest("tdx", str(root), settings, signer.roots)
