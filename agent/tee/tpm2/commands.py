"""TPM 2.0 commands and answers as bytes, big-endian; no I/O (attesters.md 6.1; TPM 2.0 Library part 3)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.errors import ErrorCode
from agent.tee.evidence.reader import Reader
from agent.tee.tpm2.codes import TpmRefusal, describe

if TYPE_CHECKING:
    from collections.abc import Iterable

OWNER: Final = 0x40000001
PASSWORD: Final = 0x40000009
SHA256: Final = 0x000B
RSASSA: Final = 0x0014
NULL: Final = 0x0010
RSA: Final = 0x0001

NV_CHUNK: Final = 1024
"""Bytes of one NV_Read or NV_Write; every vTPM takes them (TPM_PT_NV_BUFFER_MAX)."""

MAX_QUALIFYING: Final = 64
"""Bytes of a quote's nonce: the largest digest. TPM2B_DATA allows two more."""

ALL_PCRS: Final = frozenset(range(24))

_NO_SESSIONS: Final = 0x8001
_SESSIONS: Final = 0x8002
_HEADER: Final = 10
_EMPTY_PASSWORD: Final = struct.pack(">IIHBH", 9, PASSWORD, 0, 0, 0)
_OWNER_WRITES_AND_READS: Final = 0x00020002


class Command(msgspec.Struct, frozen=True):
    """One command.

    Attributes:
        name: as the specification writes it, e.g. ``NV_Read``.
        code: command code.
        handles: what it acts on.
        parameters: encoded.
        authorised: whether it carries a session; ours is always the empty password.
        new_handle: whether the answer begins with a handle.
    """

    name: str
    code: int
    handles: tuple[int, ...] = ()
    parameters: bytes = b""
    authorised: bool = False
    new_handle: bool = False

    def encode(self) -> bytes:
        """The command's bytes."""
        handles = b"".join(struct.pack(">I", handle) for handle in self.handles)
        body = handles + (_EMPTY_PASSWORD if self.authorised else b"") + self.parameters
        tag = _SESSIONS if self.authorised else _NO_SESSIONS
        return struct.pack(">HII", tag, _HEADER + len(body), self.code) + body


def sized(data: bytes) -> bytes:
    """A TPM2B: two bytes of length, then the data."""
    return struct.pack(">H", len(data)) + data


def selection(pcrs: Iterable[int]) -> bytes:
    """TPML_PCR_SELECTION of some PCRs of the SHA-256 bank."""
    bits = sum(1 << pcr for pcr in set(pcrs))
    return struct.pack(">IHB", 1, SHA256, 3) + bits.to_bytes(3, "little")


def nv_read_public(index: int) -> Command:
    """NV_ReadPublic."""
    return Command("NV_ReadPublic", 0x169, (index,))


def nv_read(index: int, size: int, offset: int) -> Command:
    """NV_Read with the owner's authorisation."""
    return Command("NV_Read", 0x14E, (OWNER, index), struct.pack(">HH", size, offset), authorised=True)


def nv_write(index: int, data: bytes, offset: int) -> Command:
    """NV_Write with the owner's authorisation."""
    return Command(
        "NV_Write", 0x137, (OWNER, index), sized(data) + struct.pack(">H", offset), authorised=True
    )


def nv_define(index: int, size: int) -> Command:
    """NV_DefineSpace of an ordinary index that the owner reads and writes (attesters.md 5.1)."""
    public = struct.pack(">IHIHH", index, SHA256, _OWNER_WRITES_AND_READS, 0, size)
    return Command("NV_DefineSpace", 0x12A, (OWNER,), sized(b"") + sized(public), authorised=True)


def nv_undefine(index: int) -> Command:
    """NV_UndefineSpace."""
    return Command("NV_UndefineSpace", 0x122, (OWNER, index), authorised=True)


def read_public(handle: int) -> Command:
    """ReadPublic."""
    return Command("ReadPublic", 0x173, (handle,))


def quote(key: int, qualifying: bytes, *, rsassa: bool) -> Command:
    """Quote over PCR 0 to 23 of the SHA-256 bank.

    Args:
        key: handle of the attestation key.
        qualifying: the nonce, at most 64 bytes.
        rsassa: ask for RSASSA with SHA-256; otherwise the key's own scheme.
    """
    scheme = struct.pack(">HH", RSASSA, SHA256) if rsassa else struct.pack(">H", NULL)
    return Command("Quote", 0x158, (key,), sized(qualifying) + scheme + selection(ALL_PCRS), authorised=True)


def pcr_read(pcrs: Iterable[int]) -> Command:
    """PCR_Read of the SHA-256 bank; a TPM answers with eight values at most."""
    return Command("PCR_Read", 0x17E, parameters=selection(pcrs))


def pcr_extend(pcr: int, digest: bytes) -> Command:
    """PCR_Extend of the SHA-256 bank."""
    return Command("PCR_Extend", 0x182, (pcr,), struct.pack(">IH", 1, SHA256) + digest, authorised=True)


def pcr_properties() -> Command:
    """GetCapability of TPM_CAP_PCR_PROPERTIES: what may be done to which PCR from which locality."""
    return Command("GetCapability", 0x17A, parameters=struct.pack(">III", 7, 0, 32))


class Answer(msgspec.Struct, frozen=True):
    """What the TPM answered to a command that succeeded.

    Attributes:
        parameters: encoded.
        handle: the new object's handle; 0 where there is none.
    """

    parameters: bytes
    handle: int = 0


def parse_answer(command: Command, data: bytes) -> Answer:
    """Take an answer apart.

    Raises:
        TpmRefusal: the TPM refused; EVIDENCE_FAILED, naming command and response code.
        AgentError: EVIDENCE_MALFORMED.
    """
    reader = Reader(data, f"TPM answer to {command.name}")
    tag, size, rc = reader.be16(), reader.be32("size"), reader.be32("response code")
    # T-TEE-28: a length in an answer counts only as far as bytes are there.
    if size != len(data) or size > limits.TPM_MAX_REPLY:
        raise reader.wrong(f"it says {size} bytes, {len(data)} came")
    if rc != 0:
        raise TpmRefusal(ErrorCode.EVIDENCE_FAILED, f"TPM2_{command.name}: {describe(rc)}", rc)
    handle = reader.be32("handle") if command.new_handle else 0
    if tag == _NO_SESSIONS:
        return Answer(reader.rest(), handle)
    if tag != _SESSIONS:
        raise reader.wrong(f"tag 0x{tag:04x}")
    return Answer(reader.take(reader.be32("parameter size"), "parameters"), handle)


def take_sized(reader: Reader, field: str) -> bytes:
    """A TPM2B's data."""
    return reader.take(reader.be16(field), field)


def take_selection(reader: Reader) -> tuple[tuple[int, frozenset[int]], ...]:
    """TPML_PCR_SELECTION: for each bank its hash algorithm and the PCRs selected."""
    banks = []
    count = reader.be32("PCR banks")
    if count > 16:
        raise reader.wrong(f"{count} PCR banks")
    for _ in range(count):
        algorithm = reader.be16("bank")
        bits = int.from_bytes(reader.take(reader.u8("select size"), "PCR select"), "little")
        banks.append((algorithm, frozenset(n for n in range(bits.bit_length()) if bits >> n & 1)))
    return tuple(banks)


def parse_nv_public(parameters: bytes) -> int:
    """The size of an NV index in bytes."""
    reader = Reader(parameters, "NV index")
    public = Reader(take_sized(reader, "public area"), "NV index")
    public.skip(10, "index, name algorithm, attributes")
    take_sized(public, "policy")
    return public.be16("size")


def parse_pcr_values(parameters: bytes) -> dict[int, bytes]:
    """PCR number to value, as far as one answer to PCR_Read goes."""
    reader = Reader(parameters, "PCR values")
    reader.skip(4, "update counter")
    banks = take_selection(reader)
    count = reader.be32("count")
    if count > 8:
        raise reader.wrong(f"{count} values")
    values = [take_sized(reader, "value") for _ in range(count)]
    numbers = sorted(next((pcrs for algorithm, pcrs in banks if algorithm == SHA256), frozenset()))
    if len(numbers) != count or any(len(value) != 32 for value in values):
        raise reader.wrong(f"{count} values for {len(numbers)} PCRs")
    return dict(zip(numbers, values, strict=True))


def parse_quote(parameters: bytes) -> tuple[bytes, bytes]:
    """TPMS_ATTEST and TPMT_SIGNATURE, both as the TPM wrote them."""
    reader = Reader(parameters, "quote")
    return take_sized(reader, "message"), reader.rest()


def parse_pcr_properties(parameters: bytes) -> dict[int, frozenset[int]]:
    """TPM_PT_PCR to PCR numbers; 0x01: software at locality 0 may extend them, 0x02: and reset them."""
    reader = Reader(parameters, "PCR properties")
    reader.skip(5, "more data, capability")
    found = {}
    count = reader.be32("count")
    if count > 64:
        raise reader.wrong(f"{count} properties")
    for _ in range(count):
        tag = reader.be32("property")
        bits = int.from_bytes(reader.take(reader.u8("select size"), "PCR select"), "little")
        found[tag] = frozenset(n for n in range(bits.bit_length()) if bits >> n & 1)
    return found


def parse_rsa_public(parameters: bytes) -> tuple[int, int]:
    """Modulus and exponent of an RSA key, from the answer to ReadPublic (TPMT_PUBLIC).

    Raises:
        AgentError: EVIDENCE_MALFORMED, also for a key that is not RSA.
    """
    outer = Reader(parameters, "public key")
    reader = Reader(take_sized(outer, "public area"), "public key")
    kind = reader.be16("type")
    if kind != RSA:
        raise reader.wrong(f"its type is 0x{kind:04x}, not RSA")
    reader.skip(6, "name algorithm, attributes")
    take_sized(reader, "policy")
    if reader.be16("symmetric") != NULL:
        reader.skip(4, "symmetric key size and mode")
    if reader.be16("scheme") != NULL:
        reader.skip(2, "scheme's hash")
    reader.skip(2, "key size")
    exponent = reader.be32("exponent") or 65537
    return int.from_bytes(take_sized(reader, "modulus"), "big"), exponent
