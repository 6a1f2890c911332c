"""Evidence of guests without hardware, made of the devkit's signers: what an attester would send."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from agent.devkit import hcl
from agent.devkit.evidence_pki import AmdSigner, IntelSigner, NvidiaSigner, TdState, TpmSigner, authority
from agent.tee.evidence.hcl import ReportType
from agent.tee.evidence.verdict import Roots

if TYPE_CHECKING:
    from collections.abc import Callable

AMD = AmdSigner("Genoa")
INTEL = IntelSigner()
NVIDIA = NvidiaSigner()
TPM = TpmSigner()

ROOTS = Roots(AMD.roots.amd, INTEL.roots.intel, NVIDIA.roots.nvidia, AMD.roots.certificates)

ZEROS = bytes(48)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def b64u(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def tcb_json(report: bytes, offset: int) -> dict[str, int | None]:
    levels = report[offset : offset + 8]
    return {
        "fmc": None, "bootloader": levels[0], "tee": levels[1], "snp": levels[6], "microcode": levels[7],
    }  # fmt: skip


def snp_json(report: bytes, chain: list[tuple[str, bytes]] | None) -> dict[str, Any]:
    """The evidence JSON of a Milan or Genoa report, field by field as attesters.md 2.4 lists them."""

    def number(offset: int, size: int) -> int:
        return int.from_bytes(report[offset : offset + size], "little")

    def ints(offset: int, size: int) -> list[int]:
        return list(report[offset : offset + size])

    cpuid = list(report[0x188:0x18B]) if number(0, 4) >= 3 else [None] * 3
    vectors = [number(0x1F8, 8), number(0x200, 8)] if number(0, 4) >= 5 else [None] * 2
    return {
        "attestation_report": {
            "version": number(0, 4), "guest_svn": number(4, 4), "policy": number(8, 8),
            "family_id": ints(0x10, 16), "image_id": ints(0x20, 16), "vmpl": number(0x30, 4),
            "sig_algo": number(0x34, 4), "current_tcb": tcb_json(report, 0x38),
            "plat_info": number(0x40, 8), "key_info": number(0x48, 4),
            "report_data": ints(0x50, 64), "measurement": ints(0x90, 48), "host_data": ints(0xC0, 32),
            "id_key_digest": ints(0xE0, 48), "author_key_digest": ints(0x110, 48),
            "report_id": ints(0x140, 32), "report_id_ma": ints(0x160, 32),
            "reported_tcb": tcb_json(report, 0x180),
            "cpuid_fam_id": cpuid[0], "cpuid_mod_id": cpuid[1], "cpuid_step": cpuid[2],
            "chip_id": ints(0x1A0, 64), "committed_tcb": tcb_json(report, 0x1E0),
            "current": {"major": report[0x1EA], "minor": report[0x1E9], "build": report[0x1E8]},
            "committed": {"major": report[0x1EE], "minor": report[0x1ED], "build": report[0x1EC]},
            "launch_tcb": tcb_json(report, 0x1F0),
            "launch_mit_vector": vectors[0], "current_mit_vector": vectors[1],
            "signature": {"r": ints(0x2A0, 72), "s": ints(0x2E8, 72)},
        },
        "cert_chain": chain and [{"cert_type": kind, "data": list(data)} for kind, data in chain],
    }  # fmt: skip


def event(register: int, data: bytes, kind: int = 0x80000008) -> bytes:
    """One TCG event with a SHA-384 digest."""
    words = (register, kind, 1)
    head = b"".join(word.to_bytes(4, "little") for word in words) + b"\x0c\0"
    return head + hashlib.sha384(data).digest() + len(data).to_bytes(4, "little") + data


def spec_id() -> bytes:
    body = b"Spec ID Event03\0" + bytes(4) + bytes([0, 2, 0, 2]) + b"\1\0\0\0\x0c\0\x30\0\0"
    return bytes(4) + b"\3\0\0\0" + bytes(20) + len(body).to_bytes(4, "little") + body


def extended(*digests: bytes) -> bytes:
    value = ZEROS
    for digest in digests:
        value = hashlib.sha384(value + digest).digest()
    return value


@dataclass
class Made:
    """What a piece of evidence is made of; tests change it before :meth:`evidence`."""

    tee: str
    report_data: bytes
    init_digest: bytes | None = None
    vmpl: int = 0
    version: int = 3
    log: bytes = spec_id() + event(1, b"firmware") + event(4, b"image") + b"\xff" * 8
    rtmrs: tuple[bytes, bytes, bytes, bytes] = field(
        default_factory=lambda: (
            extended(hashlib.sha384(b"firmware").digest()), ZEROS, ZEROS,
            extended(hashlib.sha384(b"image").digest()),
        )
    )  # fmt: skip

    @property
    def field64(self) -> bytes:
        return self.report_data[:64].ljust(64, b"\0")

    @property
    def pcrs(self) -> list[bytes]:
        values = [bytes([number]) * 32 for number in range(24)]
        values[8] = bytes(32)
        if self.init_digest is not None:
            values[8] = hashlib.sha256(bytes(32) + self.init_digest).digest()
        return values

    def evidence(self) -> dict[str, Any]:
        makers: dict[str, Callable[[], dict[str, Any]]] = {
            "snp": self._snp, "tdx": self._tdx, "az-snp-vtpm": self._az_snp, "az-tdx-vtpm": self._az_tdx,
            "tpm": self._tpm, "nvidia": lambda: json.loads(NVIDIA.evidence(self.report_data)),
        }  # fmt: skip
        return makers[self.tee]()

    def _snp_report(self, report_data: bytes) -> bytes:
        state = replace(AMD.guest(self.init_digest or b""), version=self.version)
        return AMD.report(state, report_data, self.vmpl)

    def _snp(self) -> dict[str, Any]:
        chain = [(kind, authority.der(each)) for kind, each in AMD.certificates.items()]
        return snp_json(self._snp_report(self.field64), chain)

    def _td(self) -> TdState:
        return TdState(mrconfigid=(self.init_digest or b"")[:48].ljust(48, b"\0"), rtmrs=self.rtmrs)

    def _tdx(self) -> dict[str, Any]:
        quote = INTEL.quote(INTEL.tdreport(self._td(), self.field64))
        return {"cc_eventlog": b64(self.log) if self.log else None, "quote": b64(quote)}

    def _azure(self, hardware: Callable[[bytes], bytes], kind: ReportType) -> dict[str, Any]:
        message, signature = TPM.quote(self.report_data, self.pcrs)
        numbers = TPM.public.public_numbers()
        variable = hcl.variable_data((numbers.n, numbers.e), self.field64)
        report = hcl.build(kind, hardware(hcl.report_data(variable)), variable)
        return {
            "version": 2,
            "tpm_quote": {
                "signature": signature.hex(), "message": message.hex(),
                "pcrs": [pcr.hex() for pcr in self.pcrs],
            },
            "hcl_report": b64u(report),
        }  # fmt: skip

    def _az_snp(self) -> dict[str, Any]:
        body = self._azure(self._snp_report, ReportType.SNP)
        return body | {"vcek": b64u(authority.der(AMD.certificates["VCEK"]))}

    def _az_tdx(self) -> dict[str, Any]:
        reports: list[bytes] = []

        def hardware(report_data: bytes) -> bytes:
            reports.append(INTEL.tdreport(self._td(), report_data))
            return reports[0]

        body = self._azure(hardware, ReportType.TDX)
        return body | {"td_quote": b64u(INTEL.quote(reports[0]))}

    def _tpm(self) -> dict[str, Any]:
        message, signature = TPM.quote(self.report_data[:32], self.pcrs)
        marshalled = b"\x00\x14\x00\x0b" + len(signature).to_bytes(2, "big") + signature
        return {
            "tpm_quote": {
                "signature": b64(marshalled), "message": b64(message),
                "pcrs": [pcr.hex() for pcr in self.pcrs],
            },
            "ak_public": b64(TPM.public_der),
        }  # fmt: skip
