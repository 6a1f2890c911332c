"""SEV-SNP attestation reports (attesters.md 2.4, 18.1; AMD 56860)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent.tee.evidence.reader import Reader, malformed
from agent.tee.evidence.snp_table import Certificate, parse_certificates

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Certificate", "Firmware", "Flag", "SnpReport", "Tcb", "parse_certificates", "parse_report"]

REPORT_SIZE: Final = 1184
SIGNED_SIZE: Final = 0x2A0
"""The signature covers the bytes before this offset."""

CHIP_ID: Final = slice(0x1A0, 0x1E0)
CPUID: Final = slice(0x188, 0x18B)

TAKEN_VERSIONS: Final = range(3, 6)
"""Versions of the report that Trustee takes (attesters.md 21.2)."""

POLICY_BITS: Final[Mapping[int, str]] = {
    16: "SMT_ALLOWED",
    17: "RESERVED_MUST_BE_1",
    18: "MIGRATE_MA",
    19: "DEBUG",
    20: "SINGLE_SOCKET",
    21: "CXL_ALLOW",
    22: "MEM_AES_256_XTS",
    23: "RAPL_DIS",
    24: "CIPHERTEXT_HIDING",
    25: "PAGE_SWAP_DISABLE",
}

PLATFORM_BITS: Final[Mapping[int, str]] = {
    0: "SMT_EN",
    1: "TSME_EN",
    2: "ECC_EN",
    3: "RAPL_DIS",
    4: "CIPHERTEXT_HIDING_EN",
    5: "ALIAS_CHECK_COMPLETE",
    7: "TIO_EN",
}

_WHAT: Final = "SNP report"


class Tcb(msgspec.Struct, frozen=True):
    """Security patch levels, 0 to 255 each; ``fmc`` is None before Turin."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None

    @classmethod
    def unpack(cls, data: bytes, *, turin: bool) -> Tcb:
        """From the 8 bytes of a report; Turin and later order them differently."""
        if turin:
            return cls(fmc=data[0], bootloader=data[1], tee=data[2], snp=data[3], microcode=data[7])
        return cls(bootloader=data[0], tee=data[1], snp=data[6], microcode=data[7])

    def pack(self, *, turin: bool) -> bytes:
        """The 8 bytes, reserved ones zero."""
        if turin:
            return bytes([self.fmc or 0, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode])
        return bytes([self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode])

    def __str__(self) -> str:
        fmc = "" if self.fmc is None else f"fmc {self.fmc}, "
        levels = f"bootloader {self.bootloader}, tee {self.tee}, snp {self.snp}, microcode {self.microcode}"
        return fmc + levels


class Firmware(NamedTuple):
    """A version of the SNP firmware."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


class Flag(NamedTuple):
    """One bit of a bit field, for people."""

    name: str
    on: bool


class SnpReport(msgspec.Struct, frozen=True):
    """An attestation report. Sizes in bytes; byte fields are exactly as in the report.

    Attributes:
        raw: the report itself, 1184.
        version: 2 and more; 3 brought ``cpuid``, 5 the mitigation vectors.
        guest_svn: from the ID block.
        policy: bit field, see :attr:`policy_flags`.
        family_id: 16.
        image_id: 16.
        vmpl: 0 to 3; 0xFFFFFFFF when the host asked for the report.
        signature_algorithm: 1 is ECDSA P-384 with SHA-384.
        current_tcb: the TCB the platform runs.
        platform_info: bit field, see :attr:`platform_flags`.
        key_info: bit field, see :attr:`signing_key`.
        report_data: 64.
        measurement: launch digest, 48.
        host_data: 32; the place of an init-data digest.
        id_key_digest: 48.
        author_key_digest: 48.
        report_id: 32.
        report_id_ma: 32, all 0xFF without a migration agent.
        reported_tcb: the TCB that the signing key stands for.
        cpuid: family, model, stepping; None in version 2.
        chip_id: 64; zeros when the host masks it; from Turin on only the first 8 are used.
        committed_tcb: what the platform cannot be rolled back behind.
        current: version of the running firmware.
        committed: version of the committed firmware.
        launch_tcb: the TCB when the guest was launched.
        launch_mit_vector: None below version 5.
        current_mit_vector: None below version 5.
        signature_r: 72, little-endian integer.
        signature_s: 72, little-endian integer.
    """

    raw: bytes
    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algorithm: int
    current_tcb: Tcb
    platform_info: int
    key_info: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: Tcb
    cpuid: tuple[int, int, int] | None
    chip_id: bytes
    committed_tcb: Tcb
    current: Firmware
    committed: Firmware
    launch_tcb: Tcb
    launch_mit_vector: int | None
    current_mit_vector: int | None
    signature_r: bytes
    signature_s: bytes

    @property
    def signed(self) -> bytes:
        """What the signature covers."""
        return self.raw[:SIGNED_SIZE]

    @property
    def generations(self) -> tuple[str, ...]:
        """Generations of CPUs this report can be from: one, or Milan and Genoa for most of version 2."""
        return _generations(self.version, self.cpuid, self.chip_id)

    @property
    def generation(self) -> str:
        """``Milan``, ``Genoa``, ``Turin`` or ``Venice``; the first of :attr:`generations`."""
        return self.generations[0]

    @property
    def debug(self) -> bool:
        """Whether the host may read the guest's memory."""
        return bool(self.policy >> 19 & 1)

    @property
    def abi(self) -> tuple[int, int]:
        """Major and minor of the firmware ABI that the policy asks for at least."""
        return self.policy >> 8 & 0xFF, self.policy & 0xFF

    @property
    def policy_flags(self) -> tuple[Flag, ...]:
        """Bits of the policy by name; bits without a name only when they are set."""
        return _flags(self.policy >> 16 << 16, POLICY_BITS)

    @property
    def platform_flags(self) -> tuple[Flag, ...]:
        """Bits of the platform information by name; bits without a name only when they are set."""
        return _flags(self.platform_info, PLATFORM_BITS)

    @property
    def author_key_enabled(self) -> bool:
        """Whether ``author_key_digest`` holds a digest."""
        return bool(self.key_info & 1)

    @property
    def masked_chip_key(self) -> bool:
        """Whether the host keeps the firmware from signing with the chip's key."""
        return bool(self.key_info >> 1 & 1)

    @property
    def masked_chip_id(self) -> bool:
        """Whether the report does not say which chip it is from."""
        return not any(self.chip_id)

    @property
    def signing_key(self) -> str:
        """``VCEK``, ``VLEK``, ``none``, or ``reserved 2`` to ``reserved 6``."""
        number = self.key_info >> 2 & 7
        return {0: "VCEK", 1: "VLEK", 7: "none"}.get(number, f"reserved {number}")

    @property
    def hardware_id(self) -> bytes:
        """The chip's id as its certificate and AMD's key server have it: 8 bytes from Turin on, else 64."""
        return self.chip_id[:8] if self.turin_layout else self.chip_id

    @property
    def turin_layout(self) -> bool:
        """Whether TCBs have Turin's order of bytes."""
        return layout_is_turin(self.version, self.cpuid, self.chip_id)


def parse_report(data: bytes) -> SnpReport:
    """A report as the firmware made it. Its signature is not looked at.

    Args:
        data: exactly 1184 bytes.

    Raises:
        AgentError: EVIDENCE_MALFORMED: another size, version below 2, a CPU that is not known, or version 2
            with a masked chip id (then the order of bytes in TCBs cannot be known).
    """
    if len(data) != REPORT_SIZE:
        raise malformed(_WHAT, f"{len(data)} bytes, {REPORT_SIZE} belong there")
    data = bytes(data)
    version = int.from_bytes(data[:4], "little")
    if version < 2:
        raise malformed(_WHAT, f"version {version}")
    family, model, stepping = data[CPUID]
    cpuid = (family, model, stepping) if version >= 3 else None
    turin = layout_is_turin(version, cpuid, data[CHIP_ID])
    reader = Reader(data, _WHAT)
    reader.skip(4)

    def tcb() -> Tcb:
        return Tcb.unpack(reader.take(8), turin=turin)

    def firmware() -> Firmware:
        build, minor, major, _ = reader.take(4)
        return Firmware(major, minor, build)

    def vector() -> int | None:
        value = reader.u64()
        return value if version >= 5 else None

    # Arguments are evaluated in the order they are written in, which is the order of the report.
    return SnpReport(
        raw=data,
        version=version,
        guest_svn=reader.u32(),
        policy=reader.u64(),
        family_id=reader.take(16),
        image_id=reader.take(16),
        vmpl=reader.u32(),
        signature_algorithm=reader.u32(),
        current_tcb=tcb(),
        platform_info=reader.u64(),
        key_info=reader.u64() & 0xFFFFFFFF,
        report_data=reader.take(64),
        measurement=reader.take(48),
        host_data=reader.take(32),
        id_key_digest=reader.take(48),
        author_key_digest=reader.take(48),
        report_id=reader.take(32),
        report_id_ma=reader.take(32),
        reported_tcb=tcb(),
        cpuid=cpuid,
        chip_id=reader.take(24 + 64)[24:],
        committed_tcb=tcb(),
        current=firmware(),
        committed=firmware(),
        launch_tcb=tcb(),
        launch_mit_vector=vector(),
        current_mit_vector=vector(),
        signature_r=reader.take(152 + 72)[152:],
        signature_s=reader.take(72),
    )


def layout_is_turin(version: int, cpuid: tuple[int, int, int] | None, chip_id: bytes) -> bool:
    """Whether TCBs have Turin's order of bytes (attesters.md 2.4).

    Raises:
        AgentError: EVIDENCE_MALFORMED, the CPU's generation is unknown.
    """
    return _generations(version, cpuid, chip_id)[0] in {"Turin", "Venice"}


def _generations(version: int, cpuid: tuple[int, int, int] | None, chip_id: bytes) -> tuple[str, ...]:
    """Which CPUs (attesters.md 2.4): by CPUID, before version 3 by the length of the chip's id."""
    if version >= 3 and cpuid is not None:
        return (_by_cpuid(cpuid[0], cpuid[1]),)
    if not any(chip_id):
        raise malformed(_WHAT, "version 2 with a masked chip id: the CPU's generation is unknown")
    return ("Milan", "Genoa") if any(chip_id[8:]) else ("Turin",)


def _by_cpuid(family: int, model: int) -> str:
    ranges = {
        0x19: ((0x00, 0x0F, "Milan"), (0x10, 0x1F, "Genoa"), (0xA0, 0xAF, "Genoa")),
        0x1A: (
            (0x00, 0x11, "Turin"),
            (0x50, 0x57, "Venice"),
            (0x90, 0xAF, "Venice"),
            (0xC0, 0xC7, "Venice"),
        ),
    }
    for first, last, generation in ranges.get(family, ()):
        if first <= model <= last:
            return generation
    raise malformed(_WHAT, f"CPU family {family:#04x} model {model:#04x} is not known")


def _flags(value: int, names: Mapping[int, str]) -> tuple[Flag, ...]:
    named = [Flag(name, bool(value >> bit & 1)) for bit, name in names.items()]
    unnamed = [bit for bit in range(64) if value >> bit & 1 and bit not in names]
    return (*named, *(Flag(f"BIT_{bit}", on=True) for bit in unnamed))
