"""PEM, taken apart without loading a cryptography library: the one reader of it.

Tools put text around the blocks (``Bag Attributes``, ``openssl -text``, comments in any language, a byte
order mark), and YAML indents them or joins their lines. OpenSSL's, Rust's and Python's readers disagree about
what of that they take, so everything is brought into one form here first.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import TYPE_CHECKING, Final

import msgspec

from agent.secret import without

if TYPE_CHECKING:
    import ssl

BEGIN: Final = "-----BEGIN "
_BEGIN: Final = re.compile(r"-----BEGIN ([A-Z0-9][A-Z0-9 ]{0,40})-----")
_CERTIFICATE: Final = "CERTIFICATE"
_WIDTH: Final = 64


class Block(msgspec.Struct, frozen=True):
    """One block.

    Attributes:
        label: ``CERTIFICATE``, ``PRIVATE KEY``, ``EC PRIVATE KEY`` and so on.
        der: what it holds.
    """

    label: str
    der: bytes

    def __repr__(self) -> str:
        return without(self, "der")

    def text(self) -> str:
        """The block as every reader takes it (RFC 7468): lines of 64 characters, nothing around them."""
        encoded = base64.b64encode(self.der).decode("ascii")
        lines = [encoded[at : at + _WIDTH] for at in range(0, len(encoded), _WIDTH)]
        return "\n".join((f"{BEGIN}{self.label}-----", *lines, f"-----END {self.label}-----", ""))


def blocks(text: str) -> tuple[Block, ...]:
    """All blocks, in order. Text around them is ignored, and so is white space inside.

    Raises:
        ValueError: says what is wrong, without any of the text.
    """
    found = []
    position = 0
    while (begin := _BEGIN.search(text, position)) is not None:
        label = begin[1]
        noun = "certificate" if label == _CERTIFICATE else "block"
        end = f"-----END {label}-----"
        stop = text.find(end, begin.end())
        if stop < 0:
            raise ValueError(f"is cut off: a {noun} has no END line")
        found.append(Block(label, _content(text[begin.end() : stop], noun)))
        position = stop + len(end)
    return tuple(found)


def _content(body: str, noun: str) -> bytes:
    if ":" in body:  # RFC 1421's head lines, which only encrypted keys have
        raise ValueError("holds an encrypted key in an old form; write it without a passphrase")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"is damaged: a {noun} is not base64") from None


def certificates(text: str) -> tuple[bytes, ...]:
    """The DER certificates of a text, in order; other blocks are ignored.

    Raises:
        ValueError: says what is wrong, without any of the text.
    """
    found = tuple(block.der for block in blocks(text) if block.label == _CERTIFICATE)
    if not found:
        raise ValueError("has no 'BEGIN CERTIFICATE' block; PEM text belongs here, not a path")
    if not all(_is_whole(der) for der in found):
        raise ValueError("is damaged: a block does not hold a certificate, or not the whole of one")
    return found


def _is_whole(der: bytes) -> bool:
    """Whether it is one ASN.1 SEQUENCE and nothing else: a certificate that was cut short is none."""
    if len(der) < 2 or der[0] != 0x30:
        return False
    if der[1] < 0x80:
        return len(der) == 2 + der[1]
    size = der[1] & 0x7F
    return 0 < size <= 4 and len(der) == 2 + size + int.from_bytes(der[2 : 2 + size], "big")


def anchor(context: ssl.SSLContext, text: str) -> None:
    """Trust the certificates of a text, be they roots or not.

    Raises:
        ValueError: as :func:`certificates`, or OpenSSL cannot read one; ``ssl.SSLError`` is no ValueError.
    """
    import ssl  # noqa: PLC0415  # who only reads names and keys needs no TLS

    for number, der in enumerate(certificates(text), start=1):
        try:
            context.load_verify_locations(cadata=der)
        except ssl.SSLError:
            raise ValueError(f"certificate {number} cannot be read") from None
    # What is named is an anchor, a root, an intermediate or the server's own certificate.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def key(content: bytes, kind: str) -> bytes:
    """The first key of a file, in the form every reader takes; DER is handed back as it is.

    Args:
        content: PEM or DER.
        kind: ``PRIVATE KEY`` or ``PUBLIC KEY``, with which the label ends.

    Raises:
        ValueError: says what is wrong, without any of the text.
    """
    if BEGIN.encode() not in content:
        return content
    for block in blocks(content.decode("utf-8", "replace")):
        if block.label.endswith(kind):
            return block.text().encode()
    raise ValueError(f"has no '{kind}' block")


def is_pem(content: bytes) -> bool:
    """Whether it is PEM, not DER or something else."""
    return BEGIN.encode() in content


def identity(content: bytes) -> bytes:
    """Certificates and key of a file in the form every reader takes, for ``load_cert_chain``.

    Raises:
        ValueError: says what is wrong, without any of the text.
    """
    return "".join(block.text() for block in blocks(content.decode("utf-8", "replace"))).encode()


def summary(text: str) -> str:
    """Number and SHA-256 fingerprints of the certificates, for people."""
    if not text.strip():
        return ""
    try:
        found = certificates(text)
    except ValueError:
        return "(unreadable)"
    noun = "certificate" if len(found) == 1 else "certificates"
    return f"{len(found)} {noun}, sha256 {', '.join(hashlib.sha256(der).hexdigest() for der in found)}"
