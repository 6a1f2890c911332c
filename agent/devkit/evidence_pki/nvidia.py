"""NVIDIA's part: device identity chain and SPDM measurement reports (attesters.md 12, 21.6)."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.devkit.evidence_pki import authority
from agent.tee.evidence.verdict import Roots

_FWID_OID: Final = "2.23.133.5.4.1"
_FWID_FIELD: Final = 20
_MEASUREMENTS: Final = 4


class _Device(msgspec.Struct, frozen=True):
    arch: str
    uuid: str
    evidence: str
    certificate: str


class _Evidence(msgspec.Struct, frozen=True):
    device_evidence_list: tuple[_Device, ...]


class NvidiaSigner:
    """One NVIDIA-like vendor with one GPU.

    Attributes:
        chain: leaf first, root last; five certificates.
        roots: trusts this vendor's root and nothing else.
    """

    def __init__(self) -> None:
        names = (
            "NVIDIA Device Identity CA",
            "NVIDIA GH100 Identity",
            "NVIDIA GH100 Provisioner ICA 1",
            "GH100 A01 GSP BROM",
            "GH100 A01 GSP FMC LF",
        )
        keys = [ec.generate_private_key(ec.SECP384R1()) for _ in names]
        self._key = keys[-1]
        self._fwid = hashlib.sha384(b"devkit GPU firmware").digest()
        made = [
            authority.certify(
                name,
                key,
                (names[max(0, at - 1)], keys[max(0, at - 1)]),
                ca=at < len(names) - 1,
                extensions=[authority.extension(_FWID_OID, self._fwid_extension())]
                if at == len(names) - 1
                else [],
            )
            for at, (name, key) in enumerate(zip(names, keys, strict=True))
        ]
        self.chain = tuple(reversed(made))
        self.roots = Roots(
            amd=frozenset(), intel=frozenset(), nvidia=frozenset({authority.pin(self.chain[-1])})
        )

    def _fwid_extension(self) -> bytes:
        """TCG DICE CompositeDeviceID: the firmware's digest is its last 48 bytes."""
        algorithm = authority.sequence(authority.oid("1.2.840.10045.2.1"), authority.oid("1.3.132.0.34"))
        info = authority.sequence(algorithm, authority.tlv(0x03, b"\0\x04" + authority.point(self._key)))
        fwid = authority.sequence(authority.oid("2.16.840.1.101.3.4.2.2"), authority.octets(self._fwid))
        return authority.sequence(authority.integer(1), info, fwid)

    def report(self, nonce: bytes) -> bytes:
        """SPDM GET_MEASUREMENTS request (37 bytes) and signed response.

        Args:
            nonce: 32 bytes.
        """
        if len(nonce) != 32:
            raise ValueError("an SPDM nonce has 32 bytes")
        request = bytes([0x11, 0xE0, 0x01, 0xFF]) + nonce + b"\0"
        blocks = b"".join(_block(index) for index in range(1, _MEASUREMENTS + 1))
        opaque = _FWID_FIELD.to_bytes(2, "little") + len(self._fwid).to_bytes(2, "little") + self._fwid
        response = (
            bytes([0x11, 0x60, 0, 0, _MEASUREMENTS])
            + len(blocks).to_bytes(3, "little")
            + blocks
            + hashlib.sha256(nonce).digest()
            + len(opaque).to_bytes(2, "little")
            + opaque
        )
        r, s = authority.ecdsa(self._key, request + response, hashes.SHA384())
        return request + response + r.to_bytes(48, "big") + s.to_bytes(48, "big")

    def evidence(self, report_data: bytes) -> bytes:
        """The JSON of the ``nvidia`` attester for one GPU; the nonce is the first 32 bytes of report data."""
        device = _Device(
            "HOPPER",
            "unknown",
            base64.b64encode(self.report(report_data[:32].ljust(32, b"\0"))).decode("ascii"),
            base64.b64encode(authority.pem(*self.chain)).decode("ascii"),
        )
        return msgspec.json.encode(_Evidence((device,)))


def _block(index: int) -> bytes:
    """One DMTF measurement block with a SHA-384 digest."""
    digest = hashlib.sha384(bytes([index])).digest()
    measured = bytes([0x00]) + len(digest).to_bytes(2, "little") + digest
    return bytes([index, 0x01]) + len(measured).to_bytes(2, "little") + measured
