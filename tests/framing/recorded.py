"""Requests and answers of real programs as they were on the wire, recorded by :mod:`tests.framing.record`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent


@dataclass(frozen=True)
class Recorded:
    """One message and what the standard library, or plain splitting, reads in it.

    Attributes:
        program: with its version.
        what: it was asked.
        start: method and target, or the status of the answer that counts.
        fields: header lines.
    """

    program: str
    what: str
    data: bytes
    start: str
    fields: int
    body: bytes


def requests() -> list[Recorded]:
    """One request each."""
    return _read("recorded_requests.jsonl")


def answers() -> list[Recorded]:
    """One answer each, interim ones ahead of it in the same bytes."""
    return _read("recorded_answers.jsonl")


def _read(name: str) -> list[Recorded]:
    return [_one(json.loads(line)) for line in (_FOLDER / name).read_text().splitlines()]


def _one(found: dict[str, str | int]) -> Recorded:
    data, body = str(found["data"]).encode("latin-1"), found["body"]
    return Recorded(
        program=str(found["program"]),
        what=str(found["what"]),
        data=data,
        start=str(found["start"]),
        fields=int(found["fields"]),
        body=body.encode("latin-1") if isinstance(body, str) else data[len(data) - body :],
    )
