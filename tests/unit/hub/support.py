"""Stand-ins and vectors shared by the tests of the hub. Vectors: cdh.md appendix A."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from agent.clock import Deadline
from agent.config.model import Kms, SealedSecrets
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.hub import jwk as keys
from agent.hub import jws
from agent.hub.kms.registry import Backends
from agent.hub.resources import Resources
from agent.hub.sealed import Unsealer
from agent.observe.metrics import Metrics
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

TEST_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "QT3_slJmispaOwnAo6hxebXGLRuiveFuRCLpS4j4S4k",
    "y": "jcDn4N4nRBQ-a7_D3qjqtb6hwOAXh_ve1wvibPSi1G0",
    "alg": "ES256",
    "use": "sig",
    "kid": "test-key",
}
TEST_KEY_PRIVATE = {**TEST_KEY, "d": "7baJLiTk68NcLgYPv05jJvElqoAhbzi1ZWx4OyILUtA"}
SECOND_KEY_PRIVATE = {
    "kty": "EC",
    "crv": "P-256",
    "x": "ba6dhVZMQpM00nfC05nss0_5OQofKMQ8QgiXx3qU_1U",
    "y": "4cLtTuwNiGopbVTbE1oaUyNXPWmRpweTs7DTUdxS6yE",
    "d": "Mj3WjKn-BI3cvwmy-iI2PFcwdCIil6JQ2qDdFxwWqFI",
}
# A busy machine is no defect: examples are counted, not timed.
unhurried = settings(deadline=None, max_examples=100)

KEY_URI = "kbs:///default/sealed-secret-key/1"
TARGET_URI = "kbs:///one/2/trois"
PLAINTEXT = b"hunter2"
VAULT: dict[str, Any] = {
    "version": "0.1.0",
    "type": "vault",
    "name": TARGET_URI,
    "provider": "kbs",
    "provider_settings": {},
    "annotations": {},
}

_VAULT = (
    "eyJ2ZXJzaW9uIjoiMC4xLjAiLCJ0eXBlIjoidmF1bHQiLCJuYW1lIjoia2JzOi8vL29uZS8yL3Ryb2lzIiwicHJvdmlkZXIiOiJrYn"
    "MiLCJwcm92aWRlcl9zZXR0aW5ncyI6e30sImFubm90YXRpb25zIjp7fX0"
)
_LOCAL = "eyJhbGciOiJFUzI1NiIsImtpZCI6InRlc3Qta2V5In0"
VECTOR_A = (
    f"sealed.{_LOCAL}.{_VAULT}."
    "PUz_RYYqv5EljmGYdwYXfzijZAJWru3oPV406e5Wf6eQj6YH6xekYut-S-cHGFt4kXNbe2YHIclPTZKkT44M1g"
)
VECTOR_B = (
    "sealed.eyJhbGciOiJFUzI1NiIsImtpZCI6ImticzovLy9kZWZhdWx0L3NlYWxlZC1zZWNyZXQta2V5LzEifQ."
    f"{_VAULT}.uPKuu-zHI4CdbJR5njYv26itQ2pmPLIDEc79yeAkymVa4P5zuC6NiglTb7uzpynLKO05HfdQEoo-wUvzh8UGOw"
)
VECTOR_C = (
    f"sealed.{_LOCAL}.{_VAULT}."
    "pVbYLQJ-RO8p8mAY2pgYNZ0LNahACdODC3ob93FW9e-AhPbnih5WuOlJ0qiHSUj79Lmk4Xtao69mh8NgInM6XA"
)
VECTOR_D = f"sealed.fakejwsheader.{_VAULT}.fakesignature"
VECTOR_E = (
    f"sealed.{_LOCAL}."
    "eyJ2ZXJzaW9uIjoiMC4xLjAiLCJ0eXBlIjoiZW52ZWxvcGUiLCJrZXlfaWQiOiJhcm46YXdzOmttczp1cy1lYXN0LTE6MTExMTIyMjIz"
    "MzMzOmtleS8xMjM0YWJjZC0xMmFiLTM0Y2QtNTZlZi0xMjM0NTY3ODkwYWIiLCJlbmNyeXB0ZWRfa2V5IjoiVTFSVlFpMUxUVk10UWt4"
    "UFFqb0FBUUlEQkFVR0J3Z0pDZ3NNRFE0UEVCRVNFeFFWRmhjWUdSb2JIQjBlSHc9PSIsImVuY3J5cHRlZF9kYXRhIjoiRG92b2N6dmtT"
    "ZGFwQjIxcElnOElQNkkxWXpvcG9vRExNbkRFeHZYKzZTTE13MjFwTGc9PSIsIndyYXBfdHlwZSI6IkEyNTZHQ00iLCJpdiI6IkVCRVNF"
    "eFFWRmhjWUdSb2IiLCJwcm92aWRlciI6ImF3cyIsInByb3ZpZGVyX3NldHRpbmdzIjp7InJlZ2lvbiI6InVzLWVhc3QtMSJ9LCJhbm5v"
    "dGF0aW9ucyI6e319."
    "zDjgjcjxJX1ji9f-CeF0PEFz4kVna3hrzJzGwqIjAlFcP0iDKyweOVyesTVbbcUNojNdocbnkFocbCxj2P-GIw"
)


@dataclass
class StoredGetter:
    """A backend that holds what a test puts into it, and counts who asks."""

    held: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fault: ErrorCode | None = None

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        self.asked.append(name)
        if self.fault is not None:
            raise AgentError(self.fault, "switched on")
        if name not in self.held:
            raise AgentError(ErrorCode.RESOURCE_NOT_FOUND, "not held")
        return Secret(self.held[name])


def resources(getter: StoredGetter) -> Resources:
    return Resources(lambda: getter, Metrics())


def soon() -> Deadline:
    return Deadline.after(FakeClock(), 20.0)


def jwk(key: Mapping[str, str]) -> bytes:
    return json.dumps(key).encode()


def url64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def write(path: Path, content: bytes, mode: int = 0o600) -> str:
    """A file with exactly this mode, whatever the umask."""
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def failure(act: Callable[[], object]) -> ErrorCode | None:
    """The code ``act`` fails with, or None; any other exception fails the test."""
    try:
        act()
    except AgentError as error:
        return error.code
    return None


def unsealer(getter: StoredGetter, key_dir: Path | str = "/nonexistent", **settings: Any) -> Unsealer:
    fetched = resources(getter)
    return Unsealer(
        SealedSecrets(key_dir=str(key_dir), **settings), fetched, Backends(Kms(), fetched, FakeClock())
    )


async def refusal(unsealing: Unsealer, text: str | bytes) -> AgentError:
    sealed = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(AgentError) as caught:
        await unsealing.unseal(sealed, soon())
    return caught.value


def signed(payload: Any = VAULT, header: Any = None, key: Any = None) -> str:
    """A sealed secret with a good signature over whatever a test wants to say."""
    private = keys.signing_key(keys.read(jwk(key or TEST_KEY_PRIVATE)))
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    whole = jws.sign_compact(KEY_URI, body, private)
    if header is None:
        return f"sealed.{whole}"
    text = f"{url64(json.dumps(header).encode())}.{url64(body)}"
    return f"sealed.{text}.{url64(private.sign(text.encode()))}"
