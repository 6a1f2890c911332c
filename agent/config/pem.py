"""PEM certificates, taken apart without loading a cryptography library."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"


def certificates(text: str) -> tuple[bytes, ...]:
    """The DER certificates of a PEM text, in order; text around the blocks is ignored.

    Raises:
        ValueError: says what is wrong, without any of the text.
    """
    # T-CONF-5: a key in a configuration file is readable by everybody who reads the file.
    if "PRIVATE KEY-----" in text:
        raise ValueError("holds a private key; only certificates belong here")
    found = []
    for piece in text.split(_BEGIN)[1:]:
        body, end, _ = piece.partition(_END)
        if not end:
            raise ValueError("is cut off: a certificate has no END line")
        try:
            der = base64.b64decode("".join(body.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("is damaged: a certificate is not base64") from None
        if not der.startswith(b"\x30"):
            raise ValueError("is damaged: a block does not hold a certificate")
        found.append(der)
    if not found:
        raise ValueError("has no 'BEGIN CERTIFICATE' block; PEM text belongs here, not a path")
    return tuple(found)


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
