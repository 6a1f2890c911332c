"""Which key wraps a layer, and that it is at the broker before anybody can need it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from agent.clock import Deadline
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.hub.image_keys import unwrap
from agent.hub.image_owner import KEYS_MAX, ImageOwner
from agent.hub.image_packets import WrappedKey, parse_packet
from agent.secret import Secret
from tests.unit.hub.support import soon
from tests.unit.hub.test_image_keys import FIXTURE_KEK, KEK, KID, PRIVATE
from tests.unit.hub.test_image_wrap import b64, request

if TYPE_CHECKING:
    from agent.config.uri import ResourceUri

FILES = {"/keys/good": KEK, "/keys/other": bytes(32), "/keys/short": bytes(31), "/keys/long": bytes(33)}


@dataclass
class Broker:
    """Stores what is put, unless it is told to fail; ``gate`` makes it slow."""

    held: dict[str, bytes] = field(default_factory=dict)
    puts: int = 0
    fault: ErrorCode | None = None
    gate: asyncio.Event | None = None

    async def put(self, uri: ResourceUri, value: Secret, deadline: Deadline) -> None:
        self.puts += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise AgentError(self.fault, "switched on")
        self.held[str(uri)] = value.reveal()


def read(path: str) -> Secret:
    return Secret(FILES[path])


@pytest.fixture
def broker() -> Broker:
    return Broker()


async def ask(owner: ImageOwner, parameters: str, deadline: Deadline | None = None) -> WrappedKey:
    output, _ = await owner.wrap_key(request([b64(parameters)]), deadline or soon())
    key = parse_packet(bytes(json.loads(output)["keywrapresults"]["annotation"]))
    assert isinstance(key, WrappedKey)
    return key


async def refusal(owner: ImageOwner, parameters: str) -> ErrorCode:
    with pytest.raises(AgentError) as caught:
        await ask(owner, parameters)
    return caught.value.code


async def test_a_key_file_is_used_and_registered(broker: Broker) -> None:
    key = await ask(ImageOwner(broker, read), f"keyid={KID}::keypath=/keys/good")
    assert broker.held == {KID: KEK}
    assert unwrap(key, Secret(KEK)).reveal() == PRIVATE


async def test_all_layers_of_an_image_get_the_same_random_key(broker: Broker) -> None:
    owner = ImageOwner(broker, read)
    keys = await asyncio.gather(*(ask(owner, f"keyid={KID}") for _ in range(6)))
    for key in keys:
        assert unwrap(key, Secret(broker.held[KID])).reveal() == PRIVATE
    other = await ask(owner, "keyid=kbs:///default/image-kek/2")
    assert broker.held[other.kid] != broker.held[KID]
    owner.close()
    await ask(ImageOwner(broker, read), f"keyid={KID}")


async def test_nothing_is_wrapped_with_a_key_that_the_broker_did_not_take(broker: Broker) -> None:
    owner = ImageOwner(broker, read)
    broker.fault = ErrorCode.KBS_ADMIN_REQUIRED
    for parameters in (f"keyid={KID}", f"keyid={KID}::keypath=/keys/good"):
        assert await refusal(owner, parameters) is ErrorCode.KBS_ADMIN_REQUIRED
    broker.fault = None
    assert (await ask(owner, f"keyid={KID}::keypath=/keys/good")).kid == KID


async def test_without_a_broker_only_a_key_that_the_owner_has_is_used() -> None:
    owner = ImageOwner(None, read)
    assert unwrap(await ask(owner, f"keyid={KID}::keypath=/keys/good"), Secret(KEK)).reveal() == PRIVATE
    assert await refusal(owner, f"keyid={KID}") is ErrorCode.INVALID_REQUEST


async def test_one_request_at_a_time_has_no_random_key(broker: Broker) -> None:
    owner = ImageOwner(broker, read, lasting=False)
    assert await refusal(owner, f"keyid={KID}") is ErrorCode.INVALID_REQUEST
    assert broker.puts == 0
    await ask(owner, f"keyid={KID}::keypath=/keys/good")


async def test_a_name_is_not_given_to_another_key(broker: Broker) -> None:
    owner = ImageOwner(broker, read)
    await ask(owner, f"keyid={KID}::keypath=/keys/good")
    for other in (f"keyid={KID}::keypath=/keys/other", f"keyid={KID}"):
        assert await refusal(owner, other) is ErrorCode.INVALID_REQUEST
    assert broker.held == {KID: KEK}
    await ask(owner, f"keyid={KID}::keypath=/keys/good::algorithm=A256CTR")


@pytest.mark.parametrize("path", ["/keys/short", "/keys/long"])
async def test_a_key_of_another_length_is_neither_registered_nor_used(broker: Broker, path: str) -> None:
    assert (
        await refusal(ImageOwner(broker, read), f"keyid={KID}::keypath={path}") is ErrorCode.INVALID_REQUEST
    )
    assert broker.puts == 0


async def test_the_published_key_needs_a_switch_and_is_never_registered(broker: Broker) -> None:
    assert await refusal(ImageOwner(broker, read), "sample=true") is ErrorCode.SAMPLE_REFUSED
    key = await ask(ImageOwner(broker, read, allow_sample=True), "sample=true")
    assert key.kid == "kbs:///default/test-key/1"
    assert key.iv != bytes(12)
    assert unwrap(key, Secret(FIXTURE_KEK)).reveal() == PRIVATE
    assert broker.puts == 0


async def test_a_plugins_resource_cannot_be_registered(broker: Broker) -> None:
    parameters = "keyid=kbs+vault:///a/b::keypath=/keys/good"
    assert await refusal(ImageOwner(broker, read), parameters) is ErrorCode.INVALID_REQUEST
    assert (await ask(ImageOwner(None, read), parameters)).kid == "kbs+vault:///a/b"


async def test_names_are_bounded(broker: Broker) -> None:
    owner = ImageOwner(broker, read)
    for number in range(KEYS_MAX):
        await ask(owner, f"keyid=kbs:///default/kek/{number}::keypath=/keys/good")
    for parameters in ("keyid=kbs:///default/kek/x::keypath=/keys/good", "keyid=kbs:///default/kek/x"):
        assert await refusal(owner, parameters) is ErrorCode.TOO_MANY_REQUESTS
    await ask(owner, "keyid=kbs:///default/kek/0::keypath=/keys/good")


async def test_a_broker_that_hangs_ends_with_the_callers_time(broker: Broker) -> None:
    owner = ImageOwner(broker, read)
    broker.gate = asyncio.Event()
    clock = FakeClock()
    first, second = (
        asyncio.ensure_future(ask(owner, f"keyid={KID}", Deadline.after(clock, 0.05))) for _ in range(2)
    )
    for waiting in (first, second):
        with pytest.raises(AgentError) as caught:
            await waiting
        assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    broker.gate.set()
    await ask(owner, f"keyid={KID}")
