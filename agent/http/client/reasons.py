"""What system calls and OpenSSL say of a failure, without any of the peer's data."""

from __future__ import annotations

import os
import ssl
from typing import Final


def tls_reason(error: BaseException | None) -> str:
    """What TLS had against the peer; empty when it was not TLS."""
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ""
    told = getattr(error, "verify_message", None) or getattr(error, "reason", None) or error.strerror
    return f"TLS: {told or type(error).__name__}"


_NOT_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}
)
"""What OpenSSL calls bytes that are no TLS record: those of plain HTTP, SSH or mail servers."""


def speaks_no_tls(error: ssl.SSLError) -> bool:
    """Whether the other end answered the handshake with something that is not TLS."""
    return error.reason in _NOT_TLS


def number(error: BaseException | None) -> int:
    """The kernel's error number, or 0 when the error is not the kernel's."""
    if not isinstance(error, OSError) or isinstance(error, ssl.SSLError):
        return 0
    return max(error.errno or 0, 0)


def system_reason(error: OSError) -> str:
    """The kernel's or the resolver's words."""
    code = number(error)
    return os.strerror(code) if code else error.strerror or type(error).__name__
