"""What a token says about the guest (kbs_protocol.md 5.2), for an operator whose secret is denied."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from agent.config import limits
from agent.kbs.messages import jwt_payload, parse

_NAME: Final = re.compile(r"[a-z]{1,16}[0-9]{1,3}", re.ASCII)
_STATUSES: Final = frozenset({"warning", "contraindicated", "none"})
_CLAIMS: Final = (
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
)
_DOUBTFUL: Final = 32
"""Trustworthiness claims from here on are warnings or worse; below 0 the verifier failed or cannot tell."""


class _Appraisal(msgspec.Struct, frozen=True):
    status: str = msgspec.field(default="", name="ear.status")
    vector: dict[str, int] = msgspec.field(default_factory=dict, name="ear.trustworthiness-vector")


class _Token(msgspec.Struct, frozen=True):
    submods: dict[str, _Appraisal] = {}


def doubts(jwt: str) -> str:
    """The appraisals of a token that are not affirming, such as ``cpu0 contraindicated (executables 33)``.

    Args:
        jwt: a compact JWT. Its signature is not looked at: nothing is decided by this text.

    Returns:
        Empty when there are none, or the token is of another kind. Nothing but words and numbers of closed
        sets, whatever the token holds.
    """
    try:
        found = parse(jwt_payload(jwt), _Token, limits.KBS_MAX_TOKEN)
    except ValueError:
        return ""
    # T-KBS-170: the token is the broker's text, and logs leave the guest.
    return ", ".join(
        f"{name} {one.status}{_worst(one.vector)}"
        for name, one in sorted(found.submods.items())
        if _NAME.fullmatch(name) and one.status in _STATUSES
    )


def _worst(vector: dict[str, int]) -> str:
    shown = [
        f"{claim} {value}"
        for claim in _CLAIMS
        if -128 <= (value := vector.get(claim, 0)) <= 127 and not 0 <= value < _DOUBTFUL
    ]
    return f" ({', '.join(shown)})" if shown else ""
