"""A key management service after the rule of cdh.md A.1: it encrypts by putting a word in front."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.hub.kms.base import Backend
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Deadline
    from agent.hub.kms.base import Context

PREFIX = b"STUB-KMS-BLOB:"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    region: str = ""


@dataclass
class World:
    """What the service holds, what it was asked, and a fault switch; emptied before each test."""

    held: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)
    fault: ErrorCode | None = None
    given: list[Secret] = field(default_factory=list)


WORLD = World()


class StubKms:
    """Getter, decrypter and encrypter in one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def _ask(self, verb: str, name: str, annotations: Mapping[str, object]) -> None:
        WORLD.asked.append((f"{verb} {self.settings.region}", name, dict(annotations)))
        if WORLD.fault is not None:
            raise AgentError(WORLD.fault, "switched on")

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        self._ask("get", name, annotations)
        if name not in WORLD.held:
            raise AgentError(ErrorCode.KMS_NOT_FOUND, "not held")
        return Secret(WORLD.held[name])

    async def decrypt(
        self, ciphertext: bytes, key_id: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        self._ask("decrypt", key_id, annotations)
        if not ciphertext.startswith(PREFIX):
            raise AgentError(ErrorCode.KMS_DENIED, "not made here")
        key = Secret(ciphertext.removeprefix(PREFIX))
        WORLD.given.append(key)
        return key

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, dict[str, object]]:
        self._ask("encrypt", key_id, {})
        WORLD.given.append(plaintext)
        return PREFIX + plaintext.reveal(), {"iv": "AAAA", "more": {"deep": [1, None]}}


def _open(settings: msgspec.Struct, context: Context) -> object:
    return StubKms(cast("Settings", settings))


BACKEND = Backend("stub", Settings, _open)
