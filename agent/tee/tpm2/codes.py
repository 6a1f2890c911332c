"""The TPM's response codes by name (TCG TPM 2.0 Library part 2, 6.6)."""

from __future__ import annotations

from typing import Final

from agent.errors import AgentError, ErrorCode

HANDLE: Final = 0x08B
LOCALITY: Final = 0x907
NV_UNINITIALIZED: Final = 0x14A

AGAIN: Final = frozenset({0x908, 0x909, 0x90A, 0x920, 0x922})
"""YIELDED, CANCELED, TESTING, NV_RATE, RETRY: the same command can succeed a moment later."""

_OF_A_PART: Final = {
    0x01: "ASYMMETRIC",
    0x02: "ATTRIBUTES",
    0x03: "HASH",
    0x04: "VALUE",
    0x05: "HIERARCHY",
    0x07: "KEY_SIZE",
    0x08: "MGF",
    0x09: "MODE",
    0x0A: "TYPE",
    0x0B: "HANDLE",
    0x0C: "KDF",
    0x0D: "RANGE",
    0x0E: "AUTH_FAIL",
    0x0F: "NONCE",
    0x10: "PP",
    0x12: "SCHEME",
    0x15: "SIZE",
    0x16: "SYMMETRIC",
    0x17: "TAG",
    0x18: "SELECTOR",
    0x1A: "INSUFFICIENT",
    0x1B: "SIGNATURE",
    0x1C: "KEY",
    0x1D: "POLICY_FAIL",
    0x1F: "INTEGRITY",
    0x20: "TICKET",
    0x21: "RESERVED_BITS",
    0x22: "BAD_AUTH",
    0x23: "EXPIRED",
    0x24: "POLICY_CC",
    0x25: "BINDING",
    0x26: "CURVE",
    0x27: "ECC_POINT",
}

_PLAIN: Final = {
    0x100: "INITIALIZE",
    0x101: "FAILURE",
    0x103: "SEQUENCE",
    0x10B: "PRIVATE",
    0x119: "HMAC",
    0x120: "DISABLED",
    0x121: "EXCLUSIVE",
    0x124: "AUTH_TYPE",
    0x125: "AUTH_MISSING",
    0x126: "POLICY",
    0x127: "PCR",
    0x128: "PCR_CHANGED",
    0x12D: "UPGRADE",
    0x12E: "TOO_MANY_CONTEXTS",
    0x12F: "AUTH_UNAVAILABLE",
    0x130: "REBOOT",
    0x131: "UNBALANCED",
    0x142: "COMMAND_SIZE",
    0x143: "COMMAND_CODE",
    0x144: "AUTHSIZE",
    0x145: "AUTH_CONTEXT",
    0x146: "NV_RANGE",
    0x147: "NV_SIZE",
    0x148: "NV_LOCKED",
    0x149: "NV_AUTHORIZATION",
    0x14A: "NV_UNINITIALIZED",
    0x14B: "NV_SPACE",
    0x14C: "NV_DEFINED",
    0x150: "BAD_CONTEXT",
    0x151: "CPHASH",
    0x152: "PARENT",
    0x153: "NEEDS_TEST",
    0x154: "NO_RESULT",
    0x155: "SENSITIVE",
    0x901: "CONTEXT_GAP",
    0x902: "OBJECT_MEMORY",
    0x903: "SESSION_MEMORY",
    0x904: "MEMORY",
    0x905: "SESSION_HANDLES",
    0x906: "OBJECT_HANDLES",
    0x907: "LOCALITY",
    0x908: "YIELDED",
    0x909: "CANCELED",
    0x90A: "TESTING",
    0x920: "NV_RATE",
    0x921: "LOCKOUT",
    0x922: "RETRY",
    0x923: "NV_UNAVAILABLE",
}


class TpmRefusal(AgentError):  # noqa: N818 - an answer, in most places not an error
    """The TPM answered a command with an error.

    Attributes:
        rc: the response code as received.
    """

    def __init__(self, code: ErrorCode, detail: str, rc: int) -> None:
        super().__init__(code, detail)
        self.rc = rc

    @property
    def missing(self) -> bool:
        """Whether a key or NV index that the command names does not exist."""
        return base(self.rc) == HANDLE


def base(rc: int) -> int:
    """The error without the number of the handle, session or parameter it is about."""
    return rc & 0xBF if rc & 0x80 else rc & 0xFFF


def describe(rc: int) -> str:
    """A response code for people, e.g. ``TPM_RC_HANDLE (handle 1, 0x18b)``."""
    shown = f"0x{rc:03x}"
    # Layers above the TPM, such as Linux's resource manager, put a number of theirs into the upper half.
    layer = f" from layer {rc >> 16}" if rc >> 16 else ""
    low = rc & 0xFFFF
    if not low & 0x80:
        name = _PLAIN.get(low & 0xFFF)
        return f"TPM_RC_{name} ({shown}{layer})" if name else f"response code {shown}{layer}"
    name = _OF_A_PART.get(low & 0x3F)
    number = low >> 8 & 0xF
    if low & 0x40:
        part = f"parameter {number}"
    else:
        part = f"session {number & 7}" if number & 8 else f"handle {number & 7}"
    return f"TPM_RC_{name} ({part}, {shown}{layer})" if name else f"response code {shown}{layer}"
