"""The main job end to end: attest once, then serve resources, sealed secrets and image keys."""

from __future__ import annotations

import asyncio
import base64
import json
import resource
from typing import TYPE_CHECKING

import pytest

from agent.devkit import demo
from agent.errors import AgentError, ErrorCode
from agent.hub.image_packets import build_protocol_input
from agent.serve.ttrpc.remote import RemoteAttester, RemoteHub
from tests.integration.support import http, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent.devkit.playground import Playground

pytestmark = pytest.mark.integration

JSON = {"Accept": "application/json"}


@pytest.fixture
async def hub(place: Playground) -> AsyncIterator[RemoteHub]:
    client = RemoteHub(place.hub_socket)
    yield client
    await client.close()


def cost(place: Playground) -> tuple[int, int, int]:
    """Requests the broker has seen so far: auth, attest, resource."""
    counters = place.kbs.counters
    return counters["auth"], counters["attest"], counters["resource"]


async def test_a_thousand_cold_requests_cost_one_attestation(place: Playground) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    place.kbs.put("default/key/1", b"value")
    url = f"{place.rest}/cdh/resource/default/key/1"
    answers = await asyncio.gather(*(http(url) for _ in range(1000)))
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"value")}
    auth, attest, _ = cost(place)
    assert (auth, attest) == (1, 1)


async def test_a_warm_request_costs_one_request_to_the_broker(place: Playground) -> None:
    place.kbs.put("default/key/1", b"value")
    url = f"{place.rest}/cdh/resource/default/key/1"
    assert (await http(url)).status == 200
    before = cost(place)
    assert (await http(url)).status == 200
    assert cost(place) == (before[0], before[1], before[2] + 1)


async def test_a_missing_resource_costs_no_attestation_and_says_so(place: Playground) -> None:
    place.kbs.put("default/key/1", b"value")
    await http(f"{place.rest}/cdh/resource/default/key/1")
    before = cost(place)
    answer = await http(f"{place.rest}/cdh/resource/default/key/typo", headers=JSON)
    assert (answer.status, answer.json()["code"]) == (404, "RESOURCE_NOT_FOUND")
    assert cost(place) == (before[0], before[1], before[2] + 1)


async def test_a_denial_costs_no_attestation_and_says_so(place: Playground) -> None:
    place.kbs.put("default/key/1", b"value")
    place.kbs.put("private/key/1", b"value")
    place.kbs.deny("private/*")
    await http(f"{place.rest}/cdh/resource/default/key/1")
    before = cost(place)
    answer = await http(f"{place.rest}/cdh/resource/private/key/1", headers=JSON)
    assert (answer.status, answer.json()["code"]) == (403, "RESOURCE_DENIED")
    assert cost(place)[:2] == before[:2]


async def test_a_broker_that_forgot_our_token_costs_one_attestation(place: Playground) -> None:
    place.kbs.put("default/key/1", b"value")
    url = f"{place.rest}/cdh/resource/default/key/1"
    assert (await http(url)).status == 200
    place.kbs.rotate_signer()
    answers = await asyncio.gather(*(http(url) for _ in range(50)))
    assert {answer.status for answer in answers} == {200}
    assert cost(place)[:2] == (2, 2)


async def test_a_broker_that_comes_back_is_used_without_a_restart(place: Playground) -> None:
    place.kbs.put("default/key/1", b"value")
    url = f"{place.rest}/cdh/resource/default/key/1"
    await place.kbs.stop()
    answer = await http(url, headers={**JSON, "Prefer": "wait=5"})
    assert answer.json()["code"] == "KBS_UNREACHABLE"
    assert answer.status == 503
    await place.kbs.start(port=int(place.kbs.url.rpartition(":")[2]))
    assert (await http(url)).body == b"value"


async def test_a_sealed_secret_is_verified_and_opened(place: Playground, hub: RemoteHub) -> None:
    material = demo.prepare(place.kbs)
    plain = await hub.unseal(material.sealed.encode() + b"\n", soon())
    assert plain.reveal() == material.password
    assert cost(place)[:2] == (1, 1)


async def test_a_changed_sealed_secret_is_refused_and_not_echoed(place: Playground, hub: RemoteHub) -> None:
    material = demo.prepare(place.kbs)
    head, payload, signature = material.sealed.rsplit(".", 2)
    other = base64.urlsafe_b64encode(
        base64.urlsafe_b64decode(payload + "==").replace(b"db/password", b"db/passw0rd")
    )
    with pytest.raises(AgentError) as refused:
        await hub.unseal(f"{head}.{other.decode().rstrip('=')}.{signature}".encode(), soon())
    assert refused.value.code is ErrorCode.SEALED_SIGNATURE_INVALID


async def test_a_layer_key_is_unwrapped_and_opens_the_layer(place: Playground, hub: RemoteHub) -> None:
    material = demo.prepare(place.kbs)
    answer = await hub.unwrap_key(material.key_request, soon())
    assert demo.open_layer(answer.reveal(), material.cipher_layer) == material.layer


async def test_a_v2_packet_is_unwrapped_like_a_v1_packet(place: Playground, hub: RemoteHub) -> None:
    material = demo.prepare(place.kbs)
    annotation = json.loads(material.key_request)["keyunwrapparams"]["annotation"]
    packet = json.loads(base64.b64decode(annotation))
    second = {"version": "0.1.0", "provider": "kbs", "provider_settings": {}, "annotations": {}, **packet}
    answer = await hub.unwrap_key(build_protocol_input(json.dumps(second).encode()), soon())
    assert demo.open_layer(answer.reveal(), material.cipher_layer) == material.layer


async def test_the_token_of_get_token_is_the_one_the_hub_uses(place: Playground) -> None:
    attester = RemoteAttester(place.attester_socket)
    try:
        token = json.loads((await attester.token("kbs", soon())).reveal())
        assert token["token"].count(".") == 2
        assert token["tee_keypair"].startswith("-----BEGIN PRIVATE KEY-----")
        assert await attester.tee_type(soon()) == "sample"
    finally:
        await attester.close()
    place.kbs.put("default/key/1", b"value")
    assert (await http(f"{place.rest}/cdh/resource/default/key/1")).status == 200
    assert cost(place)[:2] == (1, 1)


async def test_an_operator_sees_what_happened(place: Playground) -> None:
    place.kbs.put("default/key/1", b"value")
    await http(f"{place.rest}/cdh/resource/default/key/1")
    await http(f"{place.rest}/cdh/resource/default/key/typo")
    metrics = (await http(f"{place.rest}/metrics")).body.decode()
    for line in (
        "coco_attestation_attempts_total 1.0",
        "coco_attestation_success_total 1.0",
        "coco_kbs_resource_releases_total 1.0",
        'coco_kbs_resource_failures_total{reason="RESOURCE_NOT_FOUND"} 1.0',
        'coco_requests_total{api="rest",result="ok",verb="get_resource"} 1.0',
    ):
        assert line in metrics
    left = next(line for line in metrics.splitlines() if line.startswith("coco_token_seconds_left"))
    assert 200 < float(left.split()[1]) <= 300
    assert "default/key" not in metrics
    assert (await http(f"{place.rest}/healthz")).status == 200
    assert (await http(f"{place.rest}/readyz")).status == 200


async def test_what_ttrpc_cannot_carry_is_refused_and_not_audited_as_given(
    place: Playground, hub: RemoteHub, caplog: pytest.LogCaptureFixture
) -> None:
    place.kbs.put("default/big/1", b"x" * 5_000_000)
    with caplog.at_level("INFO", logger="coco.audit"), pytest.raises(AgentError) as refused:
        await hub.get_resource("kbs:///default/big/1", soon())
    assert refused.value.code is ErrorCode.KBS_RESPONSE_TOO_LARGE
    audited = [vars(record)["result"] for record in caplog.records if record.name == "coco.audit"]
    assert audited == ["KBS_RESPONSE_TOO_LARGE"]
    answer = await http(f"{place.rest}/cdh/resource/default/big/1")
    assert (answer.status, len(answer.body)) == (200, 5_000_000)
