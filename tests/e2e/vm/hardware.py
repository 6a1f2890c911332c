"""The hardware behind the guest's drivers: answers from outside of the machine, and fails when told to."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections import Counter
from dataclasses import dataclass, field
from errno import EIO, ENOSYS, ENOTTY
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from agent.devkit.evidence_pki import AmdSigner, IntelSigner, SnpState, TdState, authority
from tests.e2e.vm.cbor import Tag, encode
from tests.e2e.vm.other_hardware import EXECUTED, OtherHardware
from tests.e2e.vm.wire import Answer, Ask

if TYPE_CHECKING:
    from collections.abc import Callable

PADDING: Final = 70
"""Zeros after a TD quote, as recorded ones have them (attesters.md 3.1)."""

_PAGE: Final = 4096
_INVALID_LENGTH: Final = 1 << 32
_NO_ANSWER: Final = 0xFF
_QGS_HEADER: Final = struct.Struct("<HHIII")


class Fault(msgspec.Struct):
    """What goes wrong, until somebody takes it away.

    Attributes:
        error: errno; 0 for an answer without a report, ``wire.SILENCE`` for none at all.
        times: how often; later requests are answered.
        info: exitinfo2 of /dev/sev-guest.
    """

    error: int = 0
    times: int = 1000
    info: int = _NO_ANSWER


@dataclass(slots=True)
class Hardware:
    """One machine of each vendor.

    Attributes:
        snp: state of the SNP guest.
        td: state of the trust domain; registers change when extended.
        others: machines of vendors with ioctls only.
        faults: kind of question to what goes wrong with it.
        asked: how often each kind was asked.
        instead: kind of question to what answers it instead.
        certificates: whether the host hands out the certificate table.
    """

    amd: AmdSigner = field(default_factory=AmdSigner)
    intel: IntelSigner = field(default_factory=IntelSigner)
    snp: SnpState = field(default_factory=SnpState)
    td: TdState = field(default_factory=TdState)
    others: OtherHardware = field(default_factory=OtherHardware)
    faults: dict[str, Fault] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    instead: dict[str, Callable[[Ask], Answer]] = field(default_factory=dict)
    certificates: bool = True

    def reset(self) -> None:
        """Everything works, nothing was asked."""
        self.faults.clear()
        self.instead.clear()
        self.asked.clear()
        self.certificates = True
        self.others.uv_code = EXECUTED

    def __call__(self, ask: Ask) -> Answer:
        """Answer one question of the guest."""
        self.asked[ask.kind] += 1
        fault = self.faults.get(ask.kind)
        if fault is not None and fault.times > 0:
            fault.times -= 1
            return Answer(fault.error, [], fault.info)
        answers = {
            "report": self._report,
            "sev": self._sev,
            "tdreport": self._tdreport,
            "mr-read": self._read,
            "mr-extend": self._extend,
            "qgs": self._qgs,
            "imds": self._imds,
            "csv": self.others.csv,
            "csv-registers": self.others.csv_registers,
            "uv": self.others.uv,
            "nsm": self.others.nsm,
        }
        return self.instead.get(ask.kind, answers[ask.kind])(ask)

    def _report(self, ask: Ask) -> Answer:
        if ask.provider == "sev_guest":
            report = self.amd.report(self.snp, ask.data, ask.number)
            return Answer(blobs=[report, self.amd.table() if self.certificates else b""])
        if ask.provider == "tdx_guest":
            return Answer(blobs=[self._quote(self.intel.tdreport(self.td, ask.data))])
        return Answer(blobs=[cca_token(ask.data.ljust(64, b"\0"))])

    def _quote(self, tdreport: bytes) -> bytes:
        return self.intel.quote(tdreport, padding=PADDING)

    def _sev(self, ask: Ask) -> Answer:
        """One message to the security processor; ``number``: pages for certificates, -1 for none wanted."""
        table = self.amd.table() if self.certificates and ask.number >= 0 else b""
        pages = -(-len(table) // _PAGE)
        if pages > max(ask.number, 0):
            return Answer(EIO, info=_INVALID_LENGTH, pages=pages)
        user_data, vmpl = struct.unpack_from("<64sI", ask.data)
        if vmpl > 3:
            return Answer(blobs=[struct.pack("<II", 0x16, 0)])
        report = self.amd.report(self.snp, user_data, vmpl)
        return Answer(blobs=[struct.pack("<II24x", 0, len(report)) + report, table])

    def _tdreport(self, ask: Ask) -> Answer:
        return Answer(blobs=[self.intel.tdreport(self.td, ask.data)])

    def _read(self, ask: Ask) -> Answer:
        values = (*self.td.rtmrs, self.td.mrtd, self.td.mrconfigid, bytes(48), bytes(48))
        return Answer(blobs=[values[ask.number]])

    def _extend(self, ask: Ask) -> Answer:
        rtmrs = list(self.td.rtmrs)
        rtmrs[ask.number] = hashlib.sha384(rtmrs[ask.number] + ask.data).digest()
        self.td = replace(self.td, rtmrs=(rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]))
        return Answer()

    def _qgs(self, ask: Ask) -> Answer:
        """A quote for the TDREPORT in a GET_QUOTE_REQ (attesters.md 3.4)."""
        major, minor, kind, size, _ = _QGS_HEADER.unpack_from(ask.data)
        report_size, _ids = struct.unpack_from("<II", ask.data, _QGS_HEADER.size)
        if kind or size != len(ask.data):
            return Answer(blobs=[_QGS_HEADER.pack(major, minor, 1, _QGS_HEADER.size, 0x12006)])
        quote = self._quote(ask.data[_QGS_HEADER.size + 8 :][:report_size])
        body = struct.pack("<II", 0, len(quote)) + quote
        return Answer(blobs=[_QGS_HEADER.pack(major, minor, 1, _QGS_HEADER.size + len(body), 0) + body])

    def _imds(self, ask: Ask) -> Answer:
        """``METHOD path`` and a body, separated by a line end; the answer is a body (attesters.md 5.2)."""
        request, _, body = ask.data.partition(b"\n")
        if request == b"GET /metadata/THIM/amd/certification":
            leaf, *chain = (authority.pem(each) for each in self.amd.certificates.values())
            document = {"vcekCert": leaf.decode(), "certificateChain": b"".join(chain).decode()}
            return Answer(blobs=[msgspec.json.encode(document)])
        if request == b"POST /acc/tdquote":
            report = base64.b64decode(msgspec.json.decode(body, type=dict[str, str])["report"])
            quote = base64.urlsafe_b64encode(self._quote(report)).rstrip(b"=").decode()
            return Answer(blobs=[msgspec.json.encode({"quote": quote})])
        return Answer(ENOSYS)


def key_wiped() -> Fault:
    """The driver has no key for this VMPL any more."""
    return Fault(ENOTTY)


def throttled() -> Fault:
    """The hypervisor answers BUSY for as long as the driver asks."""
    return Fault(EIO, info=2 << 32)


def cca_token(challenge: bytes) -> bytes:
    """A realm's token with signatures of keys that were made for it (attesters.md 7)."""
    realm = ec.generate_private_key(ec.SECP384R1())
    key = b"\x04" + authority.point(realm)
    claims = {
        10: challenge,
        44235: bytes(64),
        44236: "sha-256",
        44237: key,
        44238: bytes(32),
        44239: [bytes(32)] * 4,
        44240: "sha-256",
    }
    platform_claims = {10: hashlib.sha256(key).digest(), 2396: bytes(32)}
    platform = ec.generate_private_key(ec.SECP384R1())
    return encode(
        Tag(399, {44234: _sign1(platform, encode(platform_claims)), 44241: _sign1(realm, encode(claims))})
    )


def _sign1(key: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
    protected = encode({1: -35})
    r, s = authority.ecdsa(key, encode(["Signature1", protected, b"", payload]), hashes.SHA384())
    return encode(Tag(18, [protected, {}, payload, r.to_bytes(48, "big") + s.to_bytes(48, "big")]))
