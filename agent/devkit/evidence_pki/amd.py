"""AMD's part: ARK, ASK, VCEK or VLEK, signed attestation reports (attesters.md 2.3, 18.1)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from msgspec.structs import replace

from agent.devkit.evidence_pki import authority
from agent.tee.evidence.verdict import Roots

if TYPE_CHECKING:
    from cryptography import x509

Generation = Literal["Milan", "Genoa", "Turin"]

REPORT_SIZE: Final = 1184
SIGNED_SIZE: Final = 0x2A0
TABLE_GUIDS: Final = {
    "VCEK": uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd"),
    "VLEK": uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1"),
    "ASK": uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"),
    "ARK": uuid.UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"),
}

_CPUID: Final = {"Milan": (0x19, 0x01, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 0x02, 1)}
_ARC: Final = "1.3.6.1.4.1.3704.1"
_ENTRY: Final = 24
_KEY_BITS: Final = 2048  # AMD's roots have 4096; these live for minutes and are made at every start


class Tcb(msgspec.Struct, frozen=True):
    """Security patch levels, 0 to 255 each. Microcode of 128 and more needs two bytes in DER."""

    bootloader: int = 10
    tee: int = 0
    snp: int = 23
    microcode: int = 217
    fmc: int = 0

    def pack(self, generation: Generation) -> bytes:
        """Eight bytes, in the order of the CPU's generation."""
        if generation == "Turin":
            return bytes([self.fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode])
        return bytes([self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode])


class SnpState(msgspec.Struct, frozen=True):
    """What the firmware knows about a guest, and so puts into its report.

    Attributes:
        measurement: launch digest, 48 bytes.
        host_data: 32 bytes the host gave at launch; the place of an init-data digest.
        policy: bit field (attesters.md 18.1).
        platform_info: bit field.
        version: of the report, 2, 3 or 5.
        tcb: current, reported, committed and launch TCB alike.
    """

    measurement: bytes = bytes(range(48))
    host_data: bytes = bytes(32)
    policy: int = 0x30000
    platform_info: int = 0x25
    version: int = 3
    tcb: Tcb = msgspec.field(default_factory=Tcb)


class AmdSigner:
    """One AMD-like vendor with one chip.

    Args:
        generation: of the chip: layout of TCBs, CPUID fields, length of the chip's id.
        vlek: sign with a key that the cloud provider was lent (VLEK) and not the chip's own (VCEK).
        tcb: what the certificate says.

    Attributes:
        certificates: kind (``VCEK`` or ``VLEK``, ``ASK``, ``ARK``) to certificate, in the order of the table.
        chip_id: 64 bytes.
        roots: trusts this vendor's ARK and nothing else.
    """

    def __init__(
        self, generation: Generation = "Genoa", *, vlek: bool = False, tcb: Tcb | None = None
    ) -> None:
        self.generation = generation
        self.tcb = tcb or Tcb()
        self._kind = "VLEK" if vlek else "VCEK"
        identity = bytes((7 * number + 1) % 256 for number in range(8 if generation == "Turin" else 64))
        self.chip_id = identity.ljust(64, b"\0")
        ark_key, ask_key = (rsa.generate_private_key(65537, _KEY_BITS) for _ in range(2))
        self._key = ec.generate_private_key(ec.SECP384R1())
        ark_name = f"ARK-{generation}"
        ask_name = f"SEV-VLEK-{generation}" if vlek else f"SEV-{generation}"
        ark = authority.certify(ark_name, ark_key, (ark_name, ark_key), ca=True)
        ask = authority.certify(ask_name, ask_key, (ark_name, ark_key), ca=True)
        leaf = authority.certify(
            f"SEV-{self._kind}",
            self._key,
            (ask_name, ask_key),
            ca=False,
            extensions=self._extensions(identity, vlek=vlek),
        )
        self.certificates: dict[str, x509.Certificate] = {self._kind: leaf, "ASK": ask, "ARK": ark}
        # ASK and ARK complete the chain where evidence brings the leaf alone, as on Azure.
        self.roots = Roots(
            amd=frozenset({authority.pin(ark)}),
            intel=frozenset(),
            nvidia=frozenset(),
            certificates=(authority.der(ask), authority.der(ark)),
        )

    def _extensions(self, identity: bytes, *, vlek: bool) -> list[x509.ExtensionType]:
        levels = {"1": self.tcb.bootloader, "2": self.tcb.tee, "3": self.tcb.snp, "8": self.tcb.microcode}
        if self.generation == "Turin":
            levels["9"] = self.tcb.fmc
        product = self.generation if vlek else f"{self.generation}-B0"
        made: list[x509.ExtensionType] = [
            authority.extension(f"{_ARC}.1", authority.integer(1 if self.generation == "Turin" else 0)),
            authority.extension(f"{_ARC}.2", authority.tlv(0x16, product.encode("ascii"))),
            *(
                authority.extension(f"{_ARC}.3.{arc}", authority.integer(level))
                for arc, level in levels.items()
            ),
        ]
        if vlek:
            made.append(authority.extension(f"{_ARC}.5", authority.tlv(0x16, b"devkit cloud")))
        else:
            made.append(authority.extension(f"{_ARC}.4", identity))
        return made

    def report(self, state: SnpState, report_data: bytes, vmpl: int = 0) -> bytes:
        """A signed attestation report of 1184 bytes.

        Args:
            state: the guest.
            report_data: 64 bytes.
            vmpl: privilege level the report is made for.
        """
        tcb = state.tcb.pack(self.generation)
        report = bytearray(REPORT_SIZE)

        def put(offset: int, value: bytes) -> None:
            report[offset : offset + len(value)] = value

        def number(offset: int, value: int, size: int) -> None:
            put(offset, value.to_bytes(size, "little"))

        number(0x000, state.version, 4)
        number(0x008, state.policy, 8)
        number(0x030, vmpl, 4)
        number(0x034, 1, 4)
        number(0x040, state.platform_info, 8)
        number(0x048, (1 if self._kind == "VLEK" else 0) << 2, 4)
        put(0x050, _exactly(report_data, 64))
        put(0x090, _exactly(state.measurement, 48))
        put(0x0C0, _exactly(state.host_data, 32))
        put(0x140, bytes(range(32)))
        put(0x160, b"\xff" * 32)
        for offset in (0x038, 0x180, 0x1E0, 0x1F0):
            put(offset, tcb)
        if state.version >= 3:
            put(0x188, bytes(_CPUID[self.generation]))
        put(0x1A0, self.chip_id)
        put(0x1E8, bytes([40, 55, 1]))
        put(0x1EC, bytes([40, 55, 1]))
        self._sign(report)
        return bytes(report)

    def _sign(self, report: bytearray) -> None:
        r, s = authority.ecdsa(self._key, bytes(report[:SIGNED_SIZE]), hashes.SHA384())
        report[0x2A0:0x2E8] = r.to_bytes(72, "little")
        report[0x2E8:0x330] = s.to_bytes(72, "little")

    def resigned(self, report: bytes) -> bytes:
        """A report somebody changed, with a signature that holds again."""
        changed = bytearray(report)
        self._sign(changed)
        return bytes(changed)

    def table(self) -> bytes:
        """The certificate table a host hands to its guests, terminated."""
        data = [(kind, authority.der(certificate)) for kind, certificate in self.certificates.items()]
        offset = _ENTRY * (len(data) + 1)
        entries, blob = b"", b""
        for kind, content in data:
            entries += TABLE_GUIDS[kind].bytes
            entries += (offset + len(blob)).to_bytes(4, "little") + len(content).to_bytes(4, "little")
            blob += content
        return entries + bytes(_ENTRY) + blob

    def guest(self, init_digest: bytes = b"") -> SnpState:
        """A guest on this chip, launched with an init-data digest cut or padded to 32 bytes."""
        return replace(SnpState(tcb=self.tcb), host_data=init_digest[:32].ljust(32, b"\0"))


def _exactly(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise ValueError(f"a field of {size} bytes, {len(value)} given")
    return value
