"""The broker's reading of init-data: its digest and the claims it puts into tokens (kbs_protocol.md 2.5)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import toml
from agent.devkit.kbs import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

ALGORITHMS: Final = ("sha256", "sha384", "sha512", "sm3")
_POLICY_DATA: Final = "policy_data :="


class _Toml(msgspec.Struct, frozen=True):
    version: str
    algorithm: str
    data: dict[str, str]


class ReadInitData(msgspec.Struct, frozen=True):
    """Init-data that parsed.

    Attributes:
        digest: over the raw TOML text.
        claims: ``[data]``, with known files turned into JSON.
    """

    digest: bytes
    claims: Mapping[str, object]


def read(init_data: wire.InitData) -> ReadInitData:
    """Parse and digest.

    Raises:
        MalformedError: format other than ``toml``, or a TOML that is not init-data.
    """
    if init_data.format != "toml":
        raise wire.MalformedError("init-data format is not toml")
    parsed = wire.convert(_toml(init_data.body), _Toml)
    if parsed.algorithm not in ALGORITHMS or parsed.algorithm not in hashlib.algorithms_available:
        raise wire.MalformedError("init-data algorithm is not supported")
    digest = hashlib.new(parsed.algorithm, init_data.body.encode("utf-8")).digest()
    return ReadInitData(digest, _claims(parsed.data))


def _toml(text: str) -> dict[str, object]:
    try:
        return toml.loads(text.encode())
    except ValueError as error:  # toml.TomlError, and lone surrogates
        raise wire.MalformedError(f"not TOML: {type(error).__name__}") from error


def _claims(data: dict[str, str]) -> dict[str, object]:
    claims: dict[str, object] = dict(data)
    for name in ("cdh.toml", "aa.toml"):
        if name in data:
            claims[name] = _toml(data[name])
    policy = _policy_claims(data.get("policy.rego", ""))
    if policy is not None:
        del claims["policy.rego"]
        claims["agent_policy_claims"] = policy
    try:  # TOML knows dates and integers that JSON does not
        plain: dict[str, object] = msgspec.json.decode(msgspec.json.encode(claims))
    except (TypeError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise wire.MalformedError("init-data holds values that JSON cannot") from error
    return plain


def _policy_claims(policy: str) -> dict[str, object] | None:
    _, found, tail = policy.rpartition(_POLICY_DATA)
    if not found:
        return None
    try:
        return wire.decode(tail.encode("utf-8"), dict[str, object])
    except wire.MalformedError:
        return None  # Rego that is no JSON: Trustee then leaves the text as it is
