"""From a sealed secret or an image annotation to a key management service, through the whole hub."""

from __future__ import annotations

import base64
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.config import model
from agent.errors import AgentError, ErrorCode
from agent.hub.hub import Hub
from agent.hub.image_packets import build_protocol_input
from agent.hub.kms.http import KmsHttp
from agent.observe.metrics import Metrics
from tests.integration.kms.backends.aws import ARN, REGION, AwsFake
from tests.integration.kms.stand import TEXT, Mode, Stand, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.integration

PRIVATE = b'{"symkey":"c4n4ry-of-a-layer","digest":"sha256:00","cipheroptions":{}}'


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def url64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@asynccontextmanager
async def hub_for(stand: Stand) -> AsyncIterator[Hub]:
    kms = stand.kms
    config = model.Hub(kms=kms, sealed=model.SealedSecrets(skip_verification=True))
    hub = Hub(config, None, Metrics(), clock=stand.fake.clock, kms_http=KmsHttp(kms, routes=stand.routes))
    try:
        yield hub
    finally:
        await hub.close()


@pytest.fixture
async def stand(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Stand]:
    caplog.set_level(logging.DEBUG)
    async with Stand(AwsFake(), tmp_path).running() as running:
        yield running
    assert running.fake.complaints == []
    assert running.leaks(caplog.text) == []


def packet(stand: Stand, **change: Any) -> bytes:
    wrapped, annotations = stand.fake.wrap(PRIVATE)
    told = {
        "version": "0.1.0",
        "kid": ARN,
        "wrapped_data": b64(wrapped),
        "provider": "aws",
        "provider_settings": {"region": REGION},
        "annotations": annotations,
        **change,
    }
    return build_protocol_input(json.dumps(told).encode())


def sealed(payload: dict[str, Any]) -> bytes:
    common = {"version": "0.1.0", "provider_settings": {"region": REGION}, "annotations": {}}
    return f"sealed.fakejwsheader.{url64(json.dumps({**common, **payload}).encode())}.fakesignature".encode()


@pytest.mark.parametrize("provider", ["aws", "AWS"])
async def test_an_image_key_of_a_service(stand: Stand, provider: str) -> None:
    async with hub_for(stand) as hub:
        answer = await hub.unwrap_key(packet(stand, provider=provider), soon())
    assert bytes(json.loads(answer.reveal())["keyunwrapresults"]["optsdata"]) == PRIVATE


async def test_an_image_key_that_the_service_refuses(stand: Stand) -> None:
    async with hub_for(stand) as hub:
        for change, code in (
            ({"annotations": {}}, ErrorCode.KMS_DENIED),  # another encryption context
            ({"annotations": {"encryption_context": 7}}, ErrorCode.KMS_SETTINGS_INVALID),
            ({"kid": "alias/other"}, ErrorCode.KMS_NOT_FOUND),
            ({"provider_settings": {"region": "eu.attacker.example/"}}, ErrorCode.KMS_SETTINGS_INVALID),
            ({"provider_settings": {}}, ErrorCode.KMS_SETTINGS_INVALID),
            ({"provider": "KBS", "kid": "kbs:///default/key/1"}, ErrorCode.KMS_UNKNOWN),
        ):
            assert (await stand.fails(hub.unwrap_key(packet(stand, **change), soon()))).code is code


async def test_a_vault_secret_of_a_service(stand: Stand) -> None:
    async with hub_for(stand) as hub:
        text = sealed({"type": "vault", "name": stand.fake.name, "provider": "Aws"})
        assert (await hub.unseal(text, soon())).reveal() == TEXT.encode()
        stand.mode = Mode.DENIED
        assert (await stand.fails(hub.unseal(text, soon()))).code is ErrorCode.KMS_DENIED


async def test_an_envelope_whose_data_key_a_service_decrypts(stand: Stand) -> None:
    key, iv = bytes(range(32)), bytes(12)
    wrapped, annotations = stand.fake.wrap(key)
    payload = {
        "type": "envelope",
        "key_id": ARN,
        "encrypted_key": b64(wrapped),
        "encrypted_data": b64(AESGCM(key).encrypt(iv, b"hunter2", None)),
        "wrap_type": "A256GCM",
        "iv": b64(iv),
        "provider": "aws",
        "annotations": annotations,
    }
    async with hub_for(stand) as hub:
        assert (await hub.unseal(sealed(payload), soon())).reveal() == b"hunter2"
        payload["annotations"] = {}
        assert (await stand.fails(hub.unseal(sealed(payload), soon()))).code is ErrorCode.KMS_DENIED


async def test_a_hub_that_closed_asks_nobody(stand: Stand) -> None:
    async with hub_for(stand) as hub:
        await hub.unwrap_key(packet(stand), soon())
    asked = len(stand.seen)
    with pytest.raises(AgentError):
        await hub.unwrap_key(packet(stand), soon())
    assert len(stand.seen) == asked
