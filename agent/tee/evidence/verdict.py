"""What a verification found, check by check, and the vendors' roots it ends at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        name: what, e.g. ``report signature``.
        passed: False: it does not hold. None: it could not be looked at, and ``detail`` says what is missing.
        detail: what was seen, for people; no secrets are in evidence.
    """

    name: str
    passed: bool | None
    detail: str


def holds(checks: Iterable[Check]) -> bool:
    """Whether every check passed; one that could not be made counts as failed, as does no check at all."""
    results = [check.passed for check in checks]
    return bool(results) and all(results)


class Roots(msgspec.Struct, frozen=True):
    """Where chains have to end.

    Attributes:
        amd: SHA-256 of the SubjectPublicKeyInfo (32 bytes) of accepted ARKs.
        intel: the same for SGX root CAs.
        nvidia: the same for device identity CAs.
        certificates: DER certificates that may complete a chain; trusted for nothing.
    """

    amd: frozenset[bytes]
    intel: frozenset[bytes]
    nvidia: frozenset[bytes]
    certificates: tuple[bytes, ...] = ()


VENDOR: Final = Roots(
    amd=frozenset(
        {
            bytes.fromhex("9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9"),  # ARK-Milan
            bytes.fromhex("429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831"),  # ARK-Genoa
            bytes.fromhex("4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08"),  # ARK-Turin
        }
    ),
    intel=frozenset(
        {bytes.fromhex("a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e")}  # SGX Root CA
    ),
    nvidia=frozenset(
        # Device Identity CA
        {bytes.fromhex("a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4")}
    ),
)
"""The vendors' own, as published by them (attesters.md 18, 19)."""
