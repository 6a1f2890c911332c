"""Sizes both sides of the FUSE shim know; imports nothing, as the shim's start is waited for."""

from __future__ import annotations

from typing import Final

READ_MAX: Final = 64 * 1024
"""Bytes of one read or write; larger ones arrive in pieces."""

MESSAGE_MAX: Final = 128 * 1024
"""Bytes of one message: a piece, and a path of at most 4 KiB."""
