"""What a pod asks for while it boots: 20 signed sealed secrets, 5 image layer keys, 10 resources.

All sealed secrets name one signing key, as Kata's do; every secret, key and resource is another one.
"""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.devkit import demo
from agent.hub.image_keys import wrap
from agent.hub.image_packets import build_protocol_input, build_protocol_output
from agent.hub.sealing import keygen, seal_vault

if TYPE_CHECKING:
    from pathlib import Path

SEALED: Final = 20
IMAGE_KEYS: Final = 5
RESOURCES: Final = 10
UPSTREAM_ATTESTATIONS: Final = 2 * SEALED + IMAGE_KEYS + RESOURCES

HOT: Final = demo.RESOURCE
WARM: Final = tuple(f"default/warm/{number}" for number in range(64))
"""Asked in turn where the broker has to answer each: one flight would serve all who ask for one."""

HOT_VALUE: Final = b"0123456789abcdef0123456789abcdef"

BIG: Final = "default/attack/big"
BIG_VALUE: Final = bytes(1 << 20)
"""For callers who leave their answers unread; no part of the boot."""


@dataclass(frozen=True, slots=True)
class Step:
    """One question of the boot.

    Attributes:
        verb: ``resource``, ``unseal`` or ``unwrap``.
        ask: the resource URI, the sealed secret, or the key provider request.
        answer: what has to come back.
    """

    verb: str
    ask: bytes
    answer: bytes


def make() -> tuple[dict[str, bytes], list[Step]]:
    """What the broker holds, by path, and the boot's questions in an order that mixes the kinds."""
    kid = f"kbs:///{demo.SIGNING_KEY}"
    private, public = keygen(kid)
    held = {HOT: HOT_VALUE, demo.SIGNING_KEY: public, **dict.fromkeys(WARM, HOT_VALUE)}
    steps = []
    for number in range(SEALED):
        path, value = f"default/sealed/{number}", secrets.token_bytes(32)
        held[path] = value
        steps.append(Step("unseal", seal_vault(f"kbs:///{path}", kid, private.reveal()).encode(), value))
    for number in range(IMAGE_KEYS):
        path, kek = f"default/image-kek/bench-{number}", secrets.token_bytes(32)
        held[path] = kek
        options = json.dumps({"symkey": base64.b64encode(secrets.token_bytes(32)).decode()}).encode()
        request = build_protocol_input(wrap(options, kek, f"kbs:///{path}"))
        steps.append(Step("unwrap", request, build_protocol_output(options)))
    for number in range(RESOURCES):
        path, value = f"default/file/{number}", secrets.token_bytes(32)
        held[path] = value
        steps.append(Step("resource", f"kbs:///{path}".encode(), value))
    steps.sort(key=lambda step: step.ask[-7:])  # mixed, and the same in every run of one bench
    return held, steps


def write(folder: Path, held: dict[str, bytes], steps: list[Step]) -> None:
    """Leave both for the helper processes."""
    encoded = {path: base64.b64encode(value).decode() for path, value in held.items()}
    (folder / "held.json").write_text(json.dumps(encoded))
    rows = [[step.verb, base64.b64encode(step.ask).decode(), base64.b64encode(step.answer).decode()]
            for step in steps]  # fmt: skip
    (folder / "steps.json").write_text(json.dumps(rows))


def read_held(folder: Path) -> dict[str, bytes]:
    """What the broker holds."""
    encoded = json.loads((folder / "held.json").read_text())
    return {path: base64.b64decode(value) for path, value in encoded.items()}


def read_steps(folder: Path) -> list[Step]:
    """The boot's questions."""
    rows = json.loads((folder / "steps.json").read_text())
    return [Step(verb, base64.b64decode(ask), base64.b64decode(answer)) for verb, ask, answer in rows]
