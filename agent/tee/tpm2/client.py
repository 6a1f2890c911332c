"""What attesters ask of a TPM, each made of as many commands as it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.reader import Reader
from agent.tee.tpm2 import commands
from agent.tee.tpm2.codes import TpmRefusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.tee.tpm2.commands import Answer, Command


class Channel(Protocol):
    """Whatever carries commands: ``agent.tee.tpm2.device.Tpm``."""

    def transact(self, command: Command) -> Answer:
        """See ``Tpm.transact``."""


def nv_size(tpm: Channel, index: int) -> int | None:
    """The size of an NV index in bytes; None when it is not defined."""
    try:
        return commands.parse_nv_public(tpm.transact(commands.nv_read_public(index)).parameters)
    except TpmRefusal as refusal:
        if refusal.missing:
            return None
        raise


def nv_read(tpm: Channel, index: int, size: int, offset: int = 0) -> bytes:
    """``size`` bytes of an NV index, in order and from ``offset`` on.

    Raises:
        AgentError: EVIDENCE_MALFORMED, the TPM gave another number of bytes; or its refusal.
    """
    content = b""
    while len(content) < size:
        wanted = min(commands.NV_CHUNK, size - len(content))
        answer = tpm.transact(commands.nv_read(index, wanted, offset + len(content)))
        reader = Reader(answer.parameters, "NV data")
        part = commands.take_sized(reader, "data")
        if len(part) != wanted:
            raise reader.wrong(f"{len(part)} bytes, {wanted} were asked for")
        content += part
    return content


def nv_store(tpm: Channel, index: int, data: bytes) -> None:
    """Make an NV index hold exactly ``data``; it is defined, or defined anew, when its size is another."""
    size = nv_size(tpm, index)
    if size is not None and size != len(data):
        tpm.transact(commands.nv_undefine(index))
        size = None
    if size is None:
        tpm.transact(commands.nv_define(index, len(data)))
    for offset in range(0, len(data), commands.NV_CHUNK):
        tpm.transact(commands.nv_write(index, data[offset : offset + commands.NV_CHUNK], offset))


def pcr_values(tpm: Channel, pcrs: Iterable[int] = commands.ALL_PCRS) -> dict[int, bytes]:
    """Values of PCRs of the SHA-256 bank, 32 bytes each.

    Raises:
        AgentError: QUOTE_PATH_MISSING, the TPM has no SHA-256 bank.
    """
    left = set(pcrs)
    values: dict[int, bytes] = {}
    while left:
        # A TPM gives up to eight values at a time, in the order of their numbers.
        got = commands.parse_pcr_values(tpm.transact(commands.pcr_read(left)).parameters)
        if not got.keys() & left:
            raise AgentError(ErrorCode.QUOTE_PATH_MISSING, "the TPM has no SHA-256 bank of PCRs")
        values.update((pcr, value) for pcr, value in got.items() if pcr in left)
        left -= got.keys()
    return values


def pcr_extend(tpm: Channel, pcr: int, digest: bytes) -> None:
    """Make a PCR of the SHA-256 bank SHA-256(PCR || digest)."""
    tpm.transact(commands.pcr_extend(pcr, digest))


def quote(tpm: Channel, key: int, qualifying: bytes, *, rsassa: bool) -> tuple[bytes, bytes]:
    """TPMS_ATTEST and TPMT_SIGNATURE over PCR 0 to 23, as the TPM wrote them. See ``commands.quote``.

    Raises:
        AgentError: QUOTE_PATH_MISSING, there is no such key; or the TPM's refusal.
    """
    try:
        answer = tpm.transact(commands.quote(key, qualifying, rsassa=rsassa))
    except TpmRefusal as refusal:
        raise _without_key(refusal, key) from None
    return commands.parse_quote(answer.parameters)


def rsa_public(tpm: Channel, key: int) -> tuple[int, int]:
    """Modulus and exponent of a persistent RSA key.

    Raises:
        AgentError: QUOTE_PATH_MISSING, there is no such key; EVIDENCE_MALFORMED, it is not RSA.
    """
    try:
        answer = tpm.transact(commands.read_public(key))
    except TpmRefusal as refusal:
        raise _without_key(refusal, key) from None
    return commands.parse_rsa_public(answer.parameters)


def _without_key(refusal: TpmRefusal, key: int) -> AgentError:
    if not refusal.missing:
        return refusal
    return AgentError(ErrorCode.QUOTE_PATH_MISSING, f"the TPM has no attestation key at 0x{key:08x}")
