"""Intel's part: SGX root, PCK, quoting enclave; TD reports and quotes (attesters.md 18.2, 18.3)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.devkit.evidence_pki import authority
from agent.tee.evidence.verdict import Roots

if TYPE_CHECKING:
    from cryptography import x509

TDREPORT_SIZE: Final = 1024
TDX: Final = 0x81

_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_ARC: Final = "1.2.840.113741.1.13.1"
_COMPONENTS: Final = (5, 5, 2, 2, 3, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0)
_AUTH: Final = bytes(range(32))
_QE_SIGNER: Final = bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")
"""MRSIGNER of Intel's TD quoting enclave: ours claims to be that one, and only the chain gives it away."""

FMSPC: Final = bytes.fromhex("00806f050000")
"""Six bytes that name the kind of platform."""


class TdState(msgspec.Struct, frozen=True):
    """What the TDX module knows about a trust domain.

    Attributes:
        mrtd: 48 bytes, the initial contents.
        mrconfigid: 48 bytes; the place of an init-data digest.
        rtmrs: four registers of 48 bytes.
        attributes: 8 bytes as a number; bit 0 is DEBUG, bit 28 SEPT_VE_DISABLE.
    """

    mrtd: bytes = bytes(range(48))
    mrconfigid: bytes = bytes(48)
    rtmrs: tuple[bytes, bytes, bytes, bytes] = (bytes(48),) * 4
    attributes: int = 1 << 28


class IntelSigner:
    """One Intel-like vendor with one platform and its quoting enclave.

    Attributes:
        chain: PCK leaf, PCK CA, root.
        roots: trusts this vendor's root and nothing else.
    """

    def __init__(self) -> None:
        root_key, ca_key, self._pck_key, self._key = (
            ec.generate_private_key(ec.SECP256R1()) for _ in range(4)
        )
        self._mac_key = secrets.token_bytes(32)
        root_name, ca_name = "Intel SGX Root CA", "Intel SGX PCK Platform CA"
        digest = hashes.SHA256()
        root = authority.certify(root_name, root_key, (root_name, root_key), ca=True, digest=digest)
        platform = authority.certify(ca_name, ca_key, (root_name, root_key), ca=True, digest=digest)
        leaf = authority.certify(
            "Intel SGX PCK Certificate",
            self._pck_key,
            (ca_name, ca_key),
            ca=False,
            extensions=[authority.extension(_ARC, _sgx_extension())],
            digest=digest,
        )
        self.chain: tuple[x509.Certificate, ...] = (leaf, platform, root)
        self.roots = Roots(amd=frozenset(), intel=frozenset({authority.pin(root)}), nvidia=frozenset())

    # --- the TDX module -------------------------------------------------------------------------------

    def tdreport(self, state: TdState, report_data: bytes) -> bytes:
        """A TDREPORT (TDX 1.5) of 1024 bytes; its MAC convinces this platform's quoting enclave only.

        Args:
            state: the trust domain.
            report_data: 64 bytes.
        """
        if len(report_data) != 64:
            raise ValueError("report data of a TDREPORT has 64 bytes")
        tcb_info = _tcb_info()
        info = _td_info(state)
        mac_struct = bytearray(256)
        mac_struct[0:4] = bytes([TDX, 0, 1, 0])
        mac_struct[16:32] = bytes.fromhex("05050d02030100030000000000000000")
        mac_struct[32:80] = hashlib.sha384(tcb_info).digest()
        mac_struct[80:128] = hashlib.sha384(info).digest()
        mac_struct[128:192] = report_data
        mac_struct[224:256] = self._mac(bytes(mac_struct[:224]))
        return bytes(mac_struct) + tcb_info + bytes(17) + info

    def _mac(self, data: bytes) -> bytes:
        return hmac.digest(self._mac_key, data, "sha256")

    # --- the quoting enclave --------------------------------------------------------------------------

    def quote(self, tdreport: bytes, version: int = 4, *, padding: int = 0) -> bytes:
        """A signed quote of a TDREPORT.

        Args:
            tdreport: 1024 bytes of :meth:`tdreport`.
            version: 4 or 5; 5 carries a TDX 1.5 body.
            padding: zero bytes after the quote, as hosts' buffers leave them.

        Raises:
            ValueError: the report is not this platform's.
        """
        intact = len(tdreport) == TDREPORT_SIZE and hmac.compare_digest(
            tdreport[224:256], self._mac(tdreport[:224])
        )
        if not intact or hashlib.sha384(tdreport[512:1024]).digest() != tdreport[80:128]:
            raise ValueError("the quoting enclave refuses this TDREPORT")
        body = _quote_body(tdreport)
        header = version.to_bytes(2, "little") + bytes([2, 0, TDX, 0, 0, 0]) + bytes(4) + _VENDOR + bytes(20)
        if version == 5:
            tail = tdreport[384:400] + tdreport[912:960]
            header += (3).to_bytes(2, "little") + (len(body) + len(tail)).to_bytes(4, "little")
            body += tail
        signed = header + body
        certified = self._certification()
        r, s = authority.ecdsa(self._key, signed, hashes.SHA256())
        signature = (
            _p256(r, s)
            + authority.point(self._key)
            + (6).to_bytes(2, "little")
            + len(certified).to_bytes(4, "little")
            + certified
        )
        return signed + len(signature).to_bytes(4, "little") + signature + bytes(padding)

    def _certification(self) -> bytes:
        key = authority.point(self._key)
        report = bytearray(384)
        report[0:16] = bytes.fromhex("05050d02030100030000000000000000")
        report[48:56] = bytes([0x15, 0, 0, 0, 0, 0, 0, 0])
        report[128:160] = _QE_SIGNER
        report[256:258] = (2).to_bytes(2, "little")
        report[258:260] = (8).to_bytes(2, "little")
        report[320:352] = hashlib.sha256(key + _AUTH).digest()
        r, s = authority.ecdsa(self._pck_key, bytes(report), hashes.SHA256())
        chain = authority.pem(*self.chain)
        return (
            bytes(report)
            + _p256(r, s)
            + len(_AUTH).to_bytes(2, "little")
            + _AUTH
            + (5).to_bytes(2, "little")
            + len(chain).to_bytes(4, "little")
            + chain
        )


def _tcb_info() -> bytes:
    """TEE_TCB_INFO, 239 bytes."""
    svn = bytes.fromhex("0c010600000000000000000000000000")
    mrseam = hashlib.sha384(b"devkit TDX module").digest()
    return bytes([0xFF, 1, 0xBE, 0, 0, 0, 0, 0]) + svn + mrseam + bytes(48) + bytes(8) + svn + bytes(95)


def _td_info(state: TdState) -> bytes:
    """TDINFO, 512 bytes."""
    measured = (state.mrtd, state.mrconfigid, bytes(48), bytes(48), *state.rtmrs)
    if any(len(value) != 48 for value in measured):
        raise ValueError("measurements of a trust domain have 48 bytes")
    xfam = (0x61AE7).to_bytes(8, "little")
    return state.attributes.to_bytes(8, "little") + xfam + b"".join(measured) + bytes(48 + 64)


def _quote_body(tdreport: bytes) -> bytes:
    """584 bytes: what a quote takes over from a TDREPORT."""
    tcb, info = tdreport[256:495], tdreport[512:1024]
    return tcb[8:24] + tcb[24:72] + tcb[72:120] + tcb[120:128] + info[0:16] + info[16:400] + tdreport[128:192]


def _p256(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _sgx_extension() -> bytes:
    """What a PCK certificate says about its platform."""

    def named(arc: str, value: bytes) -> bytes:
        return authority.sequence(authority.oid(f"{_ARC}.{arc}"), value)

    levels = [
        named(f"2.{number}", authority.integer(level)) for number, level in enumerate(_COMPONENTS, start=1)
    ]
    levels.append(named("2.17", authority.integer(11)))
    levels.append(named("2.18", authority.octets(bytes(_COMPONENTS))))
    return authority.sequence(
        named("1", authority.octets(hashlib.sha256(b"devkit PPID").digest()[:16])),
        named("2", authority.sequence(*levels)),
        named("3", authority.octets(bytes(2))),
        named("4", authority.octets(FMSPC)),
        named("5", authority.tlv(0x0A, b"\x01")),
        named("6", authority.octets(hashlib.sha256(b"devkit platform").digest()[:16])),
    )
