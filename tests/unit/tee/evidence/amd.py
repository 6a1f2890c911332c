"""Reports and chains of throw-away vendors for the SNP tests."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

from agent.devkit.evidence_pki import authority
from agent.devkit.evidence_pki.amd import AmdSigner, SnpState
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from agent.tee.evidence.verdict import Check

Generation = Literal["Milan", "Genoa", "Turin"]


_made = functools.cache(AmdSigner)


def signer(generation: Generation = "Genoa", *, vlek: bool = False) -> AmdSigner:
    """Keys take long to make, so tests share them."""
    return _made(generation, vlek=vlek)


@functools.cache
def raw_report(
    generation: Generation = "Genoa", *, vlek: bool = False, version: int = 3, policy: int = 0x30000
) -> bytes:
    vendor = signer(generation, vlek=vlek)
    state = SnpState(version=version, policy=policy, tcb=vendor.tcb)
    return vendor.report(state, bytes(range(64)))


def changed(raw: bytes, offset: int, value: bytes) -> bytes:
    return raw[:offset] + value + raw[offset + len(value) :]


def chain(vendor: AmdSigner) -> list[bytes]:
    return [authority.der(each) for each in vendor.certificates.values()]


def by_name(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {each.name: each for each in checks}


def declared(error: AgentError) -> None:
    """The only error a parser may raise."""
    assert error.code is ErrorCode.EVIDENCE_MALFORMED
