"""A TPM's quote (TCG TPM 2.0 Library part 2, 10.12; attesters.md 6.1, 21.4)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from agent.tee.evidence.reader import Reader, malformed
from agent.tee.evidence.verdict import Check
from agent.tee.tpm2.commands import ALL_PCRS, RSASSA, take_selection
from agent.tee.tpm2.commands import SHA256 as SHA256_BANK

if TYPE_CHECKING:
    from collections.abc import Sequence

INIT_DATA_PCR: Final = 8

_MAGIC: Final = 0xFF544347
_QUOTE: Final = 0x8018
_MAX_NAME: Final = 128
_MIN_BITS: Final = 2048
_MAX_BITS: Final = 8192


class Attest(msgspec.Struct, frozen=True):
    """TPMS_ATTEST of a quote.

    Attributes:
        qualified_signer: name of the key, or its handle.
        extra_data: the nonce.
        clock: milliseconds the TPM was powered.
        reset_count: of the TPM.
        restart_count: of the TPM, by suspending.
        safe: whether ``clock`` never went back.
        firmware_version: the vendor's.
        pcr_selection: for each bank its hash algorithm (0x000B is SHA-256) and the PCRs quoted.
        pcr_digest: hash over their values, lowest number first.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    pcr_selection: tuple[tuple[int, frozenset[int]], ...]
    pcr_digest: bytes


def parse_attest(data: bytes) -> Attest:
    """Read a TPMS_ATTEST.

    Raises:
        AgentError: EVIDENCE_MALFORMED, also for one that is no quote.
    """
    reader = Reader(data, "TPM quote")
    magic, kind = reader.be32("magic"), reader.be16("type")
    if magic != _MAGIC:
        raise reader.wrong("it was not made inside a TPM: the magic number is missing")
    if kind != _QUOTE:
        raise reader.wrong(f"type 0x{kind:04x} is no quote")
    attest = Attest(
        qualified_signer=_sized(reader, "qualified signer"),
        extra_data=_sized(reader, "extra data"),
        clock=reader.be64("clock"),
        reset_count=reader.be32("reset count"),
        restart_count=reader.be32("restart count"),
        safe=reader.u8("safe") == 1,
        firmware_version=reader.be64("firmware version"),
        pcr_selection=take_selection(reader),
        pcr_digest=_sized(reader, "PCR digest"),
    )
    if reader.left:
        raise reader.wrong(f"{reader.left} bytes follow it")
    return attest


def _sized(reader: Reader, field: str) -> bytes:
    size = reader.be16(field)
    if size > _MAX_NAME:
        raise reader.wrong(f"{field} of {size} bytes")
    return reader.take(size, field)


def parse_signature(data: bytes) -> bytes:
    """The raw RSA signature in a TPMT_SIGNATURE.

    Raises:
        AgentError: EVIDENCE_MALFORMED, also for a scheme other than RSASSA with SHA-256.
    """
    reader = Reader(data, "TPM signature")
    scheme, algorithm = reader.be16("scheme"), reader.be16("hash")
    if (scheme, algorithm) != (RSASSA, SHA256_BANK):
        raise reader.wrong(f"scheme 0x{scheme:04x} with hash 0x{algorithm:04x}, not RSASSA with SHA-256")
    signature = reader.take(reader.be16("signature"), "signature")
    if reader.left:
        raise reader.wrong(f"{reader.left} bytes follow it")
    return signature


def rsa_key(modulus: int, exponent: int, what: str) -> rsa.RSAPublicKey:
    """A key of 2048 to 8192 bits.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    if not _MIN_BITS <= modulus.bit_length() <= _MAX_BITS:
        raise malformed(what, f"an RSA key of {modulus.bit_length()} bits")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise malformed(what, "not an RSA key") from None


def signed_by(message: bytes, signature: bytes, key: rsa.RSAPublicKey) -> bool:
    """Whether the signature (RSASSA-PKCS1-v1_5 with SHA-256) is the key's."""
    try:
        key.verify(signature, message, padding.PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def verify_quote(
    message: bytes, signature: bytes, pcrs: Sequence[bytes], key: rsa.RSAPublicKey, expected: bytes | None
) -> tuple[Check, ...]:
    """Judge a quote (attesters.md 21.4, steps 1 to 3).

    Args:
        message: TPMS_ATTEST.
        signature: raw RSA signature.
        pcrs: values of PCR 0 to 23, 32 bytes each.
        key: the attestation key, which has to be believed for another reason.
        expected: the nonce, exactly; None: it is only shown.

    Raises:
        AgentError: EVIDENCE_MALFORMED, ``message`` is no quote.
    """
    attest = parse_attest(message)
    valid = signed_by(message, signature, key)
    nonce = attest.extra_data.hex() or "none"
    return (
        Check("TPM quote signature", valid, f"RSASSA with SHA-256, {key.key_size} bits"),
        Check(
            "TPM quote nonce",
            None if expected is None else attest.extra_data == expected,
            nonce if expected is None or attest.extra_data == expected else f"{nonce}, not {expected.hex()}",
        ),
        *verify_pcrs(attest, pcrs),
    )


def verify_pcrs(attest: Attest, pcrs: Sequence[bytes]) -> tuple[Check, ...]:
    """Whether a quote is over these values of PCR 0 to 23, 32 bytes each. Its signature is another matter."""
    # T-TEE-31: only the selection says which PCRs the values are of. One that leaves PCR 8 out would put
    # a value that software can reset in its place.
    whole = attest.pcr_selection == ((SHA256_BANK, ALL_PCRS),)
    complete = len(pcrs) == len(ALL_PCRS) and all(len(value) == 32 for value in pcrs)
    banks = ", ".join(
        f"{len(chosen)} of bank 0x{algorithm:04x}" for algorithm, chosen in attest.pcr_selection
    )
    digest = hashlib.sha256(b"".join(pcrs)).digest()
    return (
        Check("PCR selection", whole and complete, f"{banks or 'none'}; {len(pcrs)} values"),
        Check("PCR digest", digest == attest.pcr_digest, attest.pcr_digest.hex()),
    )


def bound_init_data(digest: bytes) -> bytes | None:
    """PCR 8 after one extension by an init-data digest; None if its size does not fit (attesters.md 16.3)."""
    return hashlib.sha256(bytes(32) + digest).digest() if len(digest) == 32 else None


def verify_init_data(pcrs: Sequence[bytes], digest: bytes | None) -> Check:
    """Whether PCR 8 holds an init-data digest, extended once.

    Args:
        pcrs: values of PCR 0 to 23, proven by :func:`verify_quote`.
        digest: of the init-data; None: it is only shown.
    """
    name = "init-data in PCR 8"
    if len(pcrs) <= INIT_DATA_PCR:
        return Check(name, passed=False, detail="PCR 8 is missing")
    value = pcrs[INIT_DATA_PCR]
    if digest is None:
        return Check(name, passed=None, detail=value.hex())
    expected = bound_init_data(digest)
    if expected is None:
        return Check(name, passed=False, detail=f"a digest of {len(digest)} bytes; PCR 8 takes sha256")
    return Check(
        name, value == expected, value.hex() if value == expected else f"{value.hex()}, not {expected.hex()}"
    )
