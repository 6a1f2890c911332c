"""No parser of evidence takes memory because a length field says so (T-TEE-9)."""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from agent.errors import AgentError
from tests.fuzz.targets import TARGETS, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = (64, 1024, 4096, 16 * 1024, 64 * 1024)
MULTIPLE = 16
"""A list of small numbers has 8 bytes for every 2 of JSON, and a parser may hold its input a few times."""
FLOOR = 16 * 1024
"""What exceptions and small objects take, whatever the input."""


def peak(target: Target, data: bytes) -> int:
    parse = target.load()
    if parse is None:
        pytest.skip(f"no {target.module} in this release")
    tracemalloc.start()
    try:
        parse(data)
    except AgentError:
        pass
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return most


def warm_up(target: Target) -> None:
    """What is imported and made once is not the input's."""
    for data in (b"", b"\xff" * 64, *target.inputs()):
        peak(target, data)


def hostile(target: Target, size: int) -> Iterator[bytes]:
    """Inputs of a size: nothing but 0xff, the beginning of a valid one and then 0xff, and huge lengths."""
    yield b"\xff" * size
    for length in (2**31 - 1, 2**32 - 1, size, size // 2):
        yield (struct.pack("<I", length) * (size // 4))[:size]
        yield (struct.pack(">I", length) * (size // 4))[:size]
    for seed in target.inputs():
        for keep in {4, 8, 24, 48, 200, len(seed) // 2, len(seed) - 1}:
            yield seed[: min(keep, size)].ljust(size, b"\xff")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_memory_follows_the_input_and_not_its_length_fields(target: Target, size: int) -> None:
    warm_up(target)
    for data in hostile(target, size):
        assert peak(target, data) <= MULTIPLE * len(data) + FLOOR


@pytest.mark.vectors
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_huge_length_anywhere_in_a_recording_takes_no_more_than_the_recording(target: Target) -> None:
    warm_up(target)
    for seed in target.inputs():
        usual = peak(target, seed)
        step = max(1, len(seed) // 60)
        for at in range(0, len(seed), step):
            for size in (2, 4, 8):
                data = seed[:at] + b"\xff" * size + seed[at + size :]
                assert peak(target, data) <= 2 * usual + FLOOR


@pytest.mark.parametrize("name", ["snp-json", "azure-json", "tpm-json"])
def test_json_of_nothing_but_brackets_or_numbers_is_bounded(name: str) -> None:
    (target,) = [each for each in TARGETS if each.name == name]
    warm_up(target)
    for text in (
        b"[" * 65536,
        b'{"a":' * 13107,
        b"[" + b"1," * 32767,
        b'{"attestation_report":{"family_id":[' + b"0," * 32000,
    ):
        assert peak(target, text) <= MULTIPLE * len(text) + FLOOR
