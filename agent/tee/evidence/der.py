"""The little DER that certificate extensions need: definite lengths, low tags, nothing else (X.690)."""

from __future__ import annotations

from typing import Final

import msgspec

from agent.tee.evidence.reader import Reader, malformed

INTEGER: Final = 0x02
OCTETS: Final = 0x04
OID: Final = 0x06
SEQUENCE: Final = 0x30

MAX_ELEMENTS: Final = 256
"""Elements of one constructed value; the TCB in a PCK certificate has 18."""


class Element(msgspec.Struct, frozen=True):
    """One value.

    Attributes:
        tag: the identifier octet.
        content: what is inside.
    """

    tag: int
    content: bytes


def elements(data: bytes, what: str = "DER") -> tuple[Element, ...]:
    """All values that ``data`` consists of.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    reader = Reader(data, what)
    found: list[Element] = []
    while reader.left:
        if len(found) == MAX_ELEMENTS:
            raise reader.wrong(f"more than {MAX_ELEMENTS} elements")
        tag = reader.u8("tag")
        found.append(Element(tag, reader.take(_length(reader), "content")))
    return tuple(found)


def _length(reader: Reader) -> int:
    first = reader.u8("length")
    if first < 0x80:
        return first
    size = first & 0x7F
    if not 1 <= size <= 4:
        raise reader.wrong(f"length of {size} bytes at offset {reader.at}")
    return int.from_bytes(reader.take(size, "length"), "big")


def children(element: Element, what: str = "DER") -> tuple[Element, ...]:
    """The values inside a SEQUENCE.

    Raises:
        AgentError: EVIDENCE_MALFORMED, also for anything but a SEQUENCE.
    """
    if element.tag != SEQUENCE:
        raise malformed(what, f"tag {element.tag:#04x} where a SEQUENCE belongs")
    return elements(element.content, what)


def unsigned(element: Element, what: str = "DER") -> int:
    """A non-negative INTEGER; a value from 0x80 on has a zero byte in front (attesters.md 18.1).

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    if element.tag != INTEGER or not 1 <= len(element.content) <= 9:
        raise malformed(what, f"tag {element.tag:#04x} where a small INTEGER belongs")
    value = int.from_bytes(element.content, "big", signed=True)
    if value < 0:
        raise malformed(what, "a negative INTEGER")
    return value


def dotted(element: Element, what: str = "DER") -> str:
    """An OBJECT IDENTIFIER as text, e.g. ``1.2.840.113741.1.13.1``.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    if element.tag != OID or not 1 <= len(element.content) <= 32 or element.content[-1] & 0x80:
        raise malformed(what, f"tag {element.tag:#04x} where an OBJECT IDENTIFIER belongs")
    arcs, value = [], 0
    for byte in element.content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))
