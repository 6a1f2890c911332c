"""The table of certificates a host hands to its SEV-SNP guests (attesters.md 2.3)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import AgentError
from agent.tee.evidence import der
from agent.tee.evidence.reader import Reader, malformed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KINDS: Final[Mapping[uuid.UUID, str]] = {
    uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd"): "VCEK",
    uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1"): "VLEK",
    uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"): "ASK",
    uuid.UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"): "ARK",
    uuid.UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea"): "CRL",
}

ENTRY_SIZE: Final = 24
MAX_CERTIFICATES: Final = 32
"""Entries of a certificate table; hosts send one to five."""

_TABLE: Final = "SNP certificate table"
KEYS: Final = frozenset({"VCEK", "VLEK"})
_VERSION: Final = 0xA0


class Certificate(msgspec.Struct, frozen=True):
    """One entry of the host's table.

    Attributes:
        kind: ``VCEK``, ``VLEK``, ``ASK``, ``ARK``, ``CRL``, ``Empty``, or the UUID of anything else.
        data: DER for the first four; whatever the host put there.
    """

    kind: str
    data: bytes


def parse_certificates(table: bytes) -> tuple[Certificate, ...]:
    """The host's certificates in the order of the table; none for an empty table.

    Args:
        table: the buffer of SNP_GET_EXT_REPORT or ``auxblob``; what follows the data is ignored.

    Raises:
        AgentError: EVIDENCE_MALFORMED: no end, data outside the buffer, inside the table or inside other
            data, or more than :data:`MAX_CERTIFICATES`.
    """
    if not table:
        return ()
    entries, end = _entries(table)
    found: list[Certificate] = []
    taken: dict[tuple[int, int], bytes] = {}
    for identity, offset, size in entries:
        if size == 0:
            continue
        if offset < end or offset + size > len(table):
            raise malformed(
                _TABLE, f"{size} bytes at offset {offset}; data lie between {end} and {len(table)}"
            )
        if (offset, size) not in taken:
            # T-TEE-11: entries that share bytes in part would make much out of little.
            if any(offset < at + length and at < offset + size for at, length in taken):
                raise malformed(_TABLE, f"data at offset {offset} overlap other data")
            taken[offset, size] = table[offset : offset + size]
        found.append(Certificate(KINDS.get(identity, str(identity)), taken[offset, size]))
    return tuple(found)


def for_verifier(signing_key: str, table: Sequence[Certificate]) -> tuple[Certificate, ...]:
    """Certificates in the order that Trustee reads them in (attesters.md 21.2): the signing key's first.

    Trustee takes the first VCEK or VLEK for the signing key, the last ASK for its issuer, and refuses a chain
    without a key; of what is missing it fetches the VCEK and has ASK, ASVK and ARK itself.

    Args:
        signing_key: of the report: ``VCEK``, ``VLEK`` or something else.
        table: the host's certificates, in whatever order it has them.

    Returns:
        None of them when the signing key's is not there. An ASK that did not issue it is left out: the table
        has one place for the issuers of both keys.
    """
    wanted = {signing_key} & KEYS or KEYS  # a key that is not known yet: any may be it
    keys = [each for each in table if each.kind in wanted]
    # T-TEE-60: with a chain that lacks the key the verifier refuses; with none it fetches the key.
    if not keys:
        return ()
    issuer = _issuer(keys[0])
    others = [each for each in table if each.kind not in wanted]
    return (*keys, *(each for each in others if each.kind != "ASK" or _may_be(each, issuer)))


def _may_be(certificate: Certificate, issuer: bytes | None) -> bool:
    """Whether the certificate's subject is ``issuer``, or cannot be told from it."""
    names = _names(certificate.data)
    return names is None or issuer is None or names[1] == issuer


def _issuer(certificate: Certificate) -> bytes | None:
    names = _names(certificate.data)
    return None if names is None else names[0]


def _names(certificate: bytes) -> tuple[bytes, bytes] | None:
    """Issuer and subject (RFC 5280 4.1) without their outer tags; None for what is no certificate."""
    try:
        fields = list(der.children(der.children(der.elements(certificate)[0])[0]))
        if fields and fields[0].tag == _VERSION:
            del fields[0]
        _, _, issuer, _, subject = fields[:5]
    except (AgentError, IndexError, ValueError):
        return None
    return issuer.content, subject.content


def _entries(table: bytes) -> tuple[list[tuple[uuid.UUID, int, int]], int]:
    """Entries as UUID, offset and size, and where the table ends."""
    reader = Reader(table, _TABLE)
    found: list[tuple[uuid.UUID, int, int]] = []
    while True:
        if reader.left < ENTRY_SIZE:
            raise reader.wrong(f"no end after {len(found)} entries")
        identity = uuid.UUID(bytes=reader.take(16))
        offset, size = reader.u32(), reader.u32()
        if identity.int == 0:
            return found, reader.at
        # T-TEE-12: a table of entries and nothing else must not become thousands of certificates.
        if len(found) == MAX_CERTIFICATES:
            raise reader.wrong(f"more than {MAX_CERTIFICATES} entries")
        found.append((identity, offset, size))
