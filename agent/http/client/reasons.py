"""What system calls and OpenSSL say of a failure, without any of the peer's data."""

from __future__ import annotations

import os
import ssl


def tls_reason(error: BaseException | None) -> str:
    """What TLS had against the peer; empty when it was not TLS."""
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ""
    told = getattr(error, "verify_message", None) or getattr(error, "reason", None) or error.strerror
    return f"TLS: {told or type(error).__name__}"


def number(error: BaseException | None) -> int:
    """The kernel's error number, or 0 when the error is not the kernel's."""
    if not isinstance(error, OSError) or isinstance(error, ssl.SSLError):
        return 0
    return max(error.errno or 0, 0)


def system_reason(error: OSError) -> str:
    """The kernel's or the resolver's words."""
    code = number(error)
    return os.strerror(code) if code else error.strerror or type(error).__name__
