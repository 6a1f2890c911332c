from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import Deadline
from agent.config.model import KeyAlgorithm
from agent.config.uri import ResourceUri, parse_uri
from agent.devkit.kbs import jwe as devkit_jwe
from agent.devkit.kbs.wire import EcKey, convert
from agent.errors import AgentError, ErrorCode
from agent.kbs.keys import TeeKey
from agent.kbs.resources import ResourceClient, open_answer
from agent.observe.metrics import Metrics
from tests.unit.kbs import PROPERTY
from tests.unit.kbs.inmemory import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

URI = parse_uri("kbs:///default/key/1")
MISSING = parse_uri("kbs:///default/key/typo")
KEY = TeeKey.generate(KeyAlgorithm.EC_P256)
SEALED = devkit_jwe.encrypt(b"value", convert(KEY.jwk(), EcKey))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    made.broker.repository.put("default/key/1", b"attested secret")
    yield made
    await made.session.close()


def client(world: World) -> ResourceClient:
    return ResourceClient(world.client, world.session, world.metrics)


async def fetch(world: World, uri: ResourceUri = URI) -> bytes:
    return (await client(world).get(uri, Deadline.after(world.clock, 20))).reveal()


async def refusal(world: World, uri: ResourceUri = URI) -> ErrorCode:
    with pytest.raises(AgentError) as caught:
        await fetch(world, uri)
    return caught.value.code


async def test_the_first_resource_costs_one_handshake_and_the_next_none(world: World) -> None:
    assert await fetch(world) == b"attested secret"
    assert await fetch(world) == b"attested secret"
    assert world.handshakes == 1
    assert world.metric("coco_kbs_resource_releases_total") == 2


async def test_a_thousand_readers_cause_one_handshake(world: World) -> None:
    assert set(await asyncio.gather(*(fetch(world) for _ in range(200)))) == {b"attested secret"}
    assert world.handshakes == 1


async def test_a_typo_costs_no_attestation(world: World) -> None:
    await fetch(world)
    assert await refusal(world, MISSING) is ErrorCode.RESOURCE_NOT_FOUND
    assert world.handshakes == 1
    assert world.broker.counters["resource"] == 2
    assert world.metric("coco_kbs_resource_failures_total", reason="RESOURCE_NOT_FOUND") == 1
    assert world.metric("coco_kbs_resource_denials_total", reason="RESOURCE_NOT_FOUND") == 0


async def test_a_denial_costs_no_attestation(world: World) -> None:
    await fetch(world)
    world.broker.policy.deny()
    assert await refusal(world) is ErrorCode.RESOURCE_DENIED
    assert world.handshakes == 1
    assert world.metric("coco_kbs_resource_denials_total", reason="RESOURCE_DENIED") == 1
    assert world.metric("coco_kbs_resource_failures_total", reason="RESOURCE_DENIED") == 0
    assert world.metric("coco_kbs_resource_releases_total") == 1


async def test_a_refused_token_costs_one_attestation(world: World) -> None:
    await fetch(world)
    world.broker.rotate_signer()
    assert await fetch(world) == b"attested secret"
    assert world.handshakes == 2
    assert world.broker.counters["resource"] == 3


async def test_many_readers_with_a_refused_token_cost_one_attestation(world: World) -> None:
    await fetch(world)
    world.broker.rotate_signer()
    assert set(await asyncio.gather(*(fetch(world) for _ in range(100)))) == {b"attested secret"}
    assert world.handshakes == 2


async def test_a_broker_that_refuses_every_token_is_asked_twice(world: World) -> None:
    other = World()
    stranger = ResourceClient(other.client, world.session, world.metrics)  # does not trust our broker
    with pytest.raises(AgentError) as caught:
        await stranger.get(URI, Deadline.after(world.clock, 20))
    assert caught.value.code is ErrorCode.TOKEN_REJECTED
    assert other.broker.counters["resource"] == 2
    assert world.handshakes == 2


async def test_no_token_means_no_request(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.ATTESTATION_REJECTED)]
    assert await refusal(world) is ErrorCode.ATTESTATION_REJECTED
    assert world.broker.counters["resource"] == 0
    assert world.metric("coco_kbs_resource_failures_total", reason="ATTESTATION_REJECTED") == 1
    assert world.metric("coco_kbs_resource_denials_total", reason="ATTESTATION_REJECTED") == 0


async def test_a_denial_says_what_the_token_says_of_the_guest(world: World) -> None:
    world.broker.policy.deny()
    with pytest.raises(AgentError) as caught:
        await fetch(world)
    assert " (the token says: cpu0 contraindicated (" in caught.value.detail
    assert "executables 33, hardware 97)" in caught.value.detail


@pytest.mark.parametrize("code", [code for code in ErrorCode if code is not ErrorCode.RESOURCE_DENIED])
def test_only_a_policys_refusal_is_a_denial(code: ErrorCode) -> None:
    metrics = Metrics()
    metrics.resource_failed(code)
    assert b"\ncoco_kbs_resource_denials_total{" not in metrics.render()
    assert f'coco_kbs_resource_failures_total{{reason="{code.name}"}} 1.0'.encode() in metrics.render()


async def test_an_empty_resource_is_a_resource(world: World) -> None:
    world.broker.repository.put("default/key/1", b"")
    assert await fetch(world) == b""


async def test_an_unencrypted_answer_of_a_plugin_is_handed_on(world: World) -> None:
    world.broker.repository.add_plugin("external", encrypted=False)
    world.broker.repository.put("backend/thing", b"raw bytes", "external")
    secret = await client(world).get(parse_uri("kbs+external:///backend/thing"), Deadline.never(world.clock))
    assert secret.reveal() == b"raw bytes"


async def test_a_web_page_with_status_200_is_not_a_secret(world: World) -> None:
    world.client.media_type = "text/html"
    assert await refusal(world) is ErrorCode.KBS_BAD_RESPONSE
    assert world.handshakes == 1


@pytest.mark.parametrize(
    ("media_type", "body", "expected"),
    [
        ("application/json", SEALED, b"value"),
        ("", SEALED, b"value"),
        ("text/xml", b"<raw/>", b"<raw/>"),
        ("application/octet-stream", b"\x00\xff", b"\x00\xff"),
        ("application/octet-stream", b"", b""),
        ("text/xml", SEALED, SEALED),
    ],
)
def test_the_media_type_decides_how_an_answer_is_read(media_type: str, body: bytes, expected: bytes) -> None:
    assert open_answer(media_type, body, KEY).reveal() == expected


@pytest.mark.parametrize(
    ("media_type", "body", "code"),
    [
        ("application/json", b"raw", ErrorCode.JWE_INVALID),
        ("application/json", b"", ErrorCode.JWE_INVALID),
        ("", b"raw", ErrorCode.KBS_BAD_RESPONSE),
        ("", b"", ErrorCode.KBS_BAD_RESPONSE),
        ("text/plain", SEALED, ErrorCode.KBS_BAD_RESPONSE),
        ("text/html", b"<html>", ErrorCode.KBS_BAD_RESPONSE),
    ],
)
def test_other_answers_are_refused(media_type: str, body: bytes, code: ErrorCode) -> None:
    with pytest.raises(AgentError) as caught:
        open_answer(media_type, body, KEY)
    assert caught.value.code is code


@PROPERTY
@given(
    media_type=st.sampled_from(["application/json", "", "text/xml", "text/html"]) | st.text(max_size=40),
    body=st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"{" + tail),
)
def test_only_declared_errors_escape(media_type: str, body: bytes) -> None:
    allowed = {ErrorCode.JWE_INVALID, ErrorCode.KBS_BAD_RESPONSE}
    code = None
    try:
        open_answer(media_type, body, KEY)
    except AgentError as error:
        code = error.code
    assert code is None or code in allowed
