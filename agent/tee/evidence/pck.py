"""What Intel writes into a PCK certificate: platform, TCB, FMSPC (attesters.md 18.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from cryptography import x509

from agent.tee.evidence import der
from agent.tee.evidence.reader import malformed

if TYPE_CHECKING:
    from collections.abc import Mapping

EXTENSION: Final = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
_ARC: Final = EXTENSION.dotted_string
_WHAT: Final = "PCK extension"


class Pck(msgspec.Struct, frozen=True):
    """The SGX extension of a PCK certificate.

    Attributes:
        ppid: 16 bytes.
        components: 16 component SVNs.
        pce_svn: SVN of the provisioning certification enclave.
        cpu_svn: 16 bytes.
        pce_id: 2 bytes.
        fmspc: 6 bytes: family, model, stepping, platform, custom SKU.
        sgx_type: 0 standard, 1 scalable, 2 scalable with integrity.
        platform_instance_id: 16 bytes; None in certificates of the Processor CA.
        configuration: name to yes or no, e.g. ``dynamic_platform``; empty when there is none.
    """

    ppid: bytes
    components: tuple[int, ...]
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    sgx_type: int
    platform_instance_id: bytes | None
    configuration: Mapping[str, bool]


def parse_pck(certificate: x509.Certificate) -> Pck:
    """The SGX extension of a certificate.

    Raises:
        AgentError: EVIDENCE_MALFORMED, also when it has none: then it is no PCK certificate.
    """
    try:
        extension = certificate.extensions.get_extension_for_oid(EXTENSION).value
    except x509.ExtensionNotFound:
        raise malformed(_WHAT, "the certificate has none, so it is no PCK") from None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise malformed(_WHAT, "the certificate's extensions cannot be read") from None
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise malformed(_WHAT, "not readable")
    whole = der.elements(extension.value, _WHAT)
    if len(whole) != 1:
        raise malformed(_WHAT, "not one value")
    fields = _pairs(whole[0], _ARC)
    tcb = _pairs(_field(fields, 2), f"{_ARC}.2")
    instance = fields.get(6)
    return Pck(
        ppid=_octets(fields, 1, 16),
        components=tuple(der.unsigned(_field(tcb, index), _WHAT) for index in range(1, 17)),
        pce_svn=der.unsigned(_field(tcb, 17), _WHAT),
        cpu_svn=_octets(tcb, 18, 16),
        pce_id=_octets(fields, 3, 2),
        fmspc=_octets(fields, 4, 6),
        sgx_type=_enumerated(_field(fields, 5)),
        platform_instance_id=None if instance is None else _octets(fields, 6, 16),
        configuration=_configuration(fields.get(7)),
    )


def _pairs(element: der.Element, arc: str) -> dict[int, der.Element]:
    """A SEQUENCE of (OID, value) by the last arc of the OID."""
    found: dict[int, der.Element] = {}
    for pair in der.children(element, _WHAT):
        members = der.children(pair, _WHAT)
        if len(members) != 2:
            raise malformed(_WHAT, f"{len(members)} members where two belong")
        prefix, _, last = der.dotted(members[0], _WHAT).rpartition(".")
        # T-TEE-17: of a field that is there twice, verifiers would each read another one.
        if prefix != arc or int(last) in found:
            raise malformed(_WHAT, f"a field that is no part of {arc}, or twice")
        found[int(last)] = members[1]
    return found


def _field(fields: Mapping[int, der.Element], index: int) -> der.Element:
    element = fields.get(index)
    if element is None:
        raise malformed(_WHAT, f"field {index} is missing")
    return element


def _octets(fields: Mapping[int, der.Element], index: int, size: int) -> bytes:
    element = _field(fields, index)
    if element.tag != der.OCTETS or len(element.content) != size:
        raise malformed(_WHAT, f"field {index} is not {size} bytes")
    return element.content


def _enumerated(element: der.Element) -> int:
    if element.tag != 0x0A or len(element.content) != 1:
        raise malformed(_WHAT, f"tag {element.tag:#04x} where an ENUMERATED belongs")
    return element.content[0]


def _configuration(element: der.Element | None) -> dict[str, bool]:
    if element is None:
        return {}
    names = {1: "dynamic_platform", 2: "cached_keys", 3: "smt_enabled"}
    flags = _pairs(element, f"{_ARC}.7")
    if any(flag.tag != 0x01 or len(flag.content) != 1 for flag in flags.values()):
        raise malformed(_WHAT, "a configuration flag that is no BOOLEAN")
    return {names[index]: flags[index].content != b"\0" for index in names if index in flags}
