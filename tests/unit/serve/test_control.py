"""The operator's socket: who may use it, and what it says."""

from __future__ import annotations

import logging
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import Deadline
from agent.config import limits
from agent.config.model import Cache, CacheRule
from agent.devkit.clock import FakeClock
from agent.hub.cache import ResourceCache, Row
from agent.hub.resources import Resources
from agent.observe.metrics import Metrics
from agent.protos import control_pb2 as pb
from agent.serve.control import SERVICE, control_services
from agent.serve.ttrpc.codec import StatusError
from agent.serve.ttrpc.server import Context
from tests.unit.hub.support import StoredGetter
from tests.unit.serve.ttrpc.roles import Role, front_of

URI = "kbs:///default/key/1"
OTHER = "kbs:///default/key/2"


class Place:
    """A hub's resources behind the control service."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        cache = ResourceCache(Cache((CacheRule("*/*/*", 10, 20),)), self.clock)
        getter = StoredGetter({URI: b"c4n4ry", OTHER: b"c4n4ry"})
        self.resources = Resources(lambda: getter, Metrics(), cache)
        self.services = control_services(front_of(Role()), self.resources)[SERVICE]

    async def fetch(self, uri: str) -> None:
        await self.resources.fetch(uri, Deadline.after(self.clock, 20.0))

    async def ask(self, method: str, payload: bytes = b"", uid: int = 0) -> bytes:
        return await self.services[method](payload, Context("pid=1 uid=0", None, uid))

    async def listed(self) -> pb.ListCacheResponse:
        return pb.ListCacheResponse.FromString(await self.ask("ListCache"))

    async def drop(self, **what: object) -> int:
        request = pb.DropCacheRequest(**what)  # type: ignore[arg-type]
        return pb.DropCacheResponse.FromString(
            await self.ask("DropCache", request.SerializeToString())
        ).Dropped


async def test_the_list_names_what_is_kept_and_shows_nothing_of_it() -> None:
    place = Place()
    await place.fetch(URI)
    place.clock.advance(4)
    answer = await place.listed()
    (entry,) = answer.Entries
    assert (entry.Name, entry.Size, entry.Age, entry.Left, entry.State) == (URI, 6, 4.0, 6.0, "fresh")
    assert answer.More == 0
    assert b"c4n4ry" not in await place.ask("ListCache")


async def test_one_or_all_entries_are_dropped() -> None:
    place = Place()
    await place.fetch(URI)
    await place.fetch(OTHER)
    assert await place.drop(Uri="kbs://host/default/key/1") == 1
    assert [entry.Name for entry in (await place.listed()).Entries] == [OTHER]
    assert await place.drop(Uri=URI) == 0
    assert await place.drop(All=True) == 1
    assert not (await place.listed()).Entries


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ({}, "INVALID_REQUEST"),
        ({"Uri": URI, "All": True}, "INVALID_REQUEST"),
        ({"Uri": "default/key/1"}, "INVALID_URI"),
    ],
)
async def test_a_request_that_makes_no_sense_drops_nothing(what: dict[str, object], code: str) -> None:
    place = Place()
    await place.fetch(URI)
    with pytest.raises(StatusError, match=code):
        await place.drop(**what)
    assert len((await place.listed()).Entries) == 1


@pytest.mark.parametrize("method", ["ListCache", "DropCache"])
async def test_only_root_and_our_own_user_are_served(method: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    place = Place()
    everything = pb.DropCacheRequest(All=True).SerializeToString() if method == "DropCache" else b""
    for uid in {0, os.geteuid()}:
        await place.ask(method, everything, uid)
    await place.fetch(URI)
    for uid in (os.geteuid() + 1, 65534, 2**32 - 1, -1):
        with pytest.raises(StatusError, match="PEER_REFUSED"):
            await place.ask(method, everything, uid)
    assert len(place.resources.rows()) == 1
    refused = [vars(record) for record in caplog.records if vars(record).get("code") == "PEER_REFUSED"]
    assert len(refused) == 4
    assert refused[0]["peer"] == "pid=1 uid=0"


async def test_a_list_that_is_too_long_says_how_much_is_missing() -> None:
    place = Place()
    long = Row("kbs:///" + "x" * 4000, 1, 0.0, 1.0, "fresh")
    place.resources.rows = lambda: [long] * 1000  # type: ignore[method-assign]
    answer = await place.ask("ListCache")
    assert len(answer) < limits.TTRPC_MAX_BODY
    parsed = pb.ListCacheResponse.FromString(answer)
    assert parsed.More > 0
    assert len(parsed.Entries) + parsed.More == 1000


@given(st.binary(max_size=64), st.sampled_from(["ListCache", "DropCache"]))
async def test_any_bytes_are_answered_or_refused(payload: bytes, method: str) -> None:
    try:
        await Place().ask(method, payload)
    except StatusError:
        return


async def test_a_request_is_bounded() -> None:
    with pytest.raises(StatusError, match="PAYLOAD_TOO_LARGE"):
        await Place().ask("ListCache", bytes(limits.URI_MAX + limits.KIB + 1))
