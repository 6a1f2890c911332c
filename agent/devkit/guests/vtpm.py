"""``az-snp-vtpm``, ``az-tdx-vtpm`` and ``tpm``: swtpm, Azure's paravisor, instance metadata."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from agent.config.model import IMDS_URL, Attester
from agent.devkit.evidence_pki import AmdSigner, IntelSigner, SnpState, TdState, authority
from agent.devkit.guests.base import SimulatedGuest, need_swtpm
from agent.devkit.imds import Imds
from agent.devkit.vtpm import Vtpm
from agent.tee.evidence.hcl import ReportType
from agent.tee.evidence.verdict import Roots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ASSET_TAG: Final = "sys/devices/virtual/dmi/id/chassis_asset_tag"
_AZURE: Final = "7783-7084-3265-9085-8269-3286-77\n"


@contextmanager
def az_snp(folder: Path, init_digest: bytes) -> Iterator[SimulatedGuest]:
    """An Azure confidential VM on SEV-SNP. Azure gives no HOSTDATA: init-data is bound by PCR 8."""
    del init_digest
    need_swtpm("az-snp-vtpm")
    signer = AmdSigner("Milan")
    root = _azure(folder)
    leaf = authority.pem(signer.certificates["VCEK"]).decode("ascii")
    chain = authority.pem(signer.certificates["ASK"], signer.certificates["ARK"]).decode("ascii")

    def hardware(report_data: bytes) -> bytes:
        return signer.report(SnpState(tcb=signer.tcb), report_data)

    with Imds(vcek_pem=(leaf, chain)) as imds, Vtpm(root, ReportType.SNP, hardware):
        settings = _settings(folder, root, imds.url)
        yield SimulatedGuest("az-snp-vtpm", str(root), settings, signer.roots)


@contextmanager
def az_tdx(folder: Path, init_digest: bytes) -> Iterator[SimulatedGuest]:
    """An Azure confidential VM on TDX. Its quotes are made by the host; init-data is bound by PCR 8."""
    del init_digest
    need_swtpm("az-tdx-vtpm")
    signer = IntelSigner()
    root = _azure(folder)

    def hardware(report_data: bytes) -> bytes:
        return signer.tdreport(TdState(), report_data)

    with Imds(quote=signer.quote) as imds, Vtpm(root, ReportType.TDX, hardware):
        settings = _settings(folder, root, imds.url)
        yield SimulatedGuest("az-tdx-vtpm", str(root), settings, signer.roots)


@contextmanager
def plain(folder: Path, init_digest: bytes) -> Iterator[SimulatedGuest]:
    """A machine with a TPM and an attestation key in it. No vendor vouches for that key."""
    del init_digest
    need_swtpm("tpm")
    root = folder / "root"
    root.mkdir()
    nobody = Roots(amd=frozenset(), intel=frozenset(), nvidia=frozenset())
    with Vtpm(root):
        yield SimulatedGuest("tpm", str(root), _settings(folder, root), nobody)


def _azure(folder: Path) -> Path:
    root = folder / "root"
    tag = root / _ASSET_TAG
    tag.parent.mkdir(parents=True)
    tag.write_text(_AZURE)
    return root


def _settings(folder: Path, root: Path, imds_url: str = IMDS_URL) -> Attester:
    return Attester(
        sysroot=str(root),
        eventlog_dir=str(folder / "eventlog"),
        enable_eventlog=True,
        init_pcr=15,  # software may extend it on every TPM, unlike upstream's default
        imds_url=imds_url,
    )
