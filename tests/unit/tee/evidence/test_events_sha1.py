"""Event logs with SHA-1 digests only, in the format from before the Spec ID event."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError
from agent.tee.evidence.events import replay
from agent.tee.evidence.events_sha1 import looks_like_sha1_log, salvage_sha1
from tests.unit.tee.evidence.amd import declared
from tests.unit.tee.evidence.test_events import LOG, spec_id, u32

SPEC_ID_00 = b"Spec ID Event00\0" + bytes(13)


def entry(register: int, kind: int, data: bytes, digest: bytes | None = None) -> bytes:
    made = hashlib.sha1(data, usedforsecurity=False).digest() if digest is None else digest
    return u32(register, kind) + made + u32(len(data)) + data


SHA1_LOG = entry(0, 3, SPEC_ID_00, bytes(20)) + entry(0, 8, b"version") + entry(7, 4, bytes(4))


def extended(*values: bytes) -> bytes:
    register = bytes(20)
    for value in values:
        register = hashlib.sha1(register + value, usedforsecurity=False).digest()
    return register


@pytest.mark.parametrize("end", [b"", bytes(8), bytes(500)])
@pytest.mark.parametrize("first", [SHA1_LOG, SHA1_LOG[32 + len(SPEC_ID_00) :]])
def test_events_and_registers(first: bytes, end: bytes) -> None:
    log, problem = salvage_sha1(first + end)
    assert problem is None
    assert looks_like_sha1_log(first + end)
    assert [(each.register, each.type_name, each.data) for each in log.events][-2:] == [
        (0, "EV_S_CRTM_VERSION", b"version"),
        (7, "EV_SEPARATOR", bytes(4)),
    ]
    assert (log.end, log.terminated) == (len(first), bool(end))
    digests = [hashlib.sha1(data, usedforsecurity=False).digest() for data in (b"version", bytes(4))]
    assert replay(log, "sha1") == {0: extended(digests[0]), 7: extended(digests[1])}


def test_a_log_that_is_cut_is_read_up_to_there() -> None:
    cut = SHA1_LOG[32 + len(SPEC_ID_00) :] + entry(4, 13, b"grub")[:-1]
    log, problem = salvage_sha1(cut)
    assert problem is not None
    assert len(log.events) == 2
    assert looks_like_sha1_log(cut)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(31),
        LOG,
        spec_id((4, 20)),  # the newer format, whatever digests it has
        entry(24, 8, b"no such PCR"),
        entry(0, 0x99, b"no such type"),
        entry(0, 3, b"one event that cannot be told from another format", bytes(20)) + b"x",
        b"\x02\0\0\0" + bytes(1180),
    ],
)
def test_what_is_something_else(data: bytes) -> None:
    assert not looks_like_sha1_log(data)


def test_bounds() -> None:
    with pytest.raises(AgentError, match=str(limits.EVENT_LOG_MAX)):
        salvage_sha1(bytes(limits.EVENT_LOG_MAX + 1))
    log, problem = salvage_sha1(entry(0, 8, b"") * (limits.EVENT_LOG_EVENTS + 1))
    assert len(log.events) == limits.EVENT_LOG_EVENTS
    assert problem is not None
    assert str(limits.EVENT_LOG_EVENTS) in problem.detail


@settings(deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=80).map(SHA1_LOG.__add__))
def test_only_the_declared_error_leaves(data: bytes) -> None:
    looks_like_sha1_log(data)
    try:
        log, problem = salvage_sha1(data)
    except AgentError as error:
        declared(error)
        return
    if problem is not None:
        declared(problem)
    assert sum(each.size for each in log.events) == log.end <= len(data)
