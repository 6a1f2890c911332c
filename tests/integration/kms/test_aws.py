"""What is AWS's own: regions, error types, versions of secrets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agent.devkit.web import web
from agent.errors import AgentError, ErrorCode
from tests.integration.kms.backends.aws import AwsFake
from tests.integration.kms.stand import PLAINTEXT, raw

if TYPE_CHECKING:
    from tests.integration.kms.stand import Stand

pytestmark = pytest.mark.integration


class Saying(AwsFake):
    """Refuses with whatever type a test wants."""

    said = ""
    status = 400

    def denied(self) -> web.Response:
        body = json.dumps({"__type": self.said, "Message": "c4n4ry of a message"})
        return web.Response(text=body, status=self.status, content_type="application/x-amz-json-1.1")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        good = await super().handle(request)
        return self.denied() if self.said else good

    def secrets(self) -> tuple[str, ...]:
        return *super().secrets(), "c4n4ry of a message", "NeverHeardOf"


class China(AwsFake):
    region = "cn-north-1"
    domain = "amazonaws.com.cn"
    hosts = ("kms.cn-north-1.amazonaws.com.cn", "secretsmanager.cn-north-1.amazonaws.com.cn")


class Europe(AwsFake):
    region = "eusc-de-east-1"
    domain = "amazonaws.eu"
    hosts = ("kms.eusc-de-east-1.amazonaws.eu", "secretsmanager.eusc-de-east-1.amazonaws.eu")


class Versions(AwsFake):
    """Notes what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[dict[str, Any]] = []

    def _secret(self, told: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(dict(told))
        return super()._secret({"SecretId": told["SecretId"]})


def played_by(*fakes: type[AwsFake]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("stand", fakes, ids=lambda fake: fake.__name__, indirect=True)


@played_by(China, Europe)
async def test_regions_with_domains_of_their_own(stand: Stand) -> None:
    assert await stand.get() == stand.fake.value()
    assert await stand.decrypt() == PLAINTEXT


@played_by(AwsFake)
@pytest.mark.parametrize(
    "region",
    [
        "",
        "us",
        "us-east",
        "us-east-1.attacker.example/",
        "us-east-1\n",
        "US-EAST-1",
        "us-east-1@x",
        "-east-1",
    ],
)
async def test_a_region_that_is_none(stand: Stand, region: str) -> None:
    with pytest.raises(AgentError) as caught:
        stand.backends.decrypter("aws", raw({"region": region}))
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID


@played_by(Saying)
@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ("AccessDeniedException", 400, ErrorCode.KMS_DENIED),
        ("com.amazonaws.kms#AccessDeniedException", 400, ErrorCode.KMS_DENIED),
        ("com.amazon.coral.service#UnrecognizedClientException", 400, ErrorCode.KMS_DENIED),
        ("ExpiredTokenException", 400, ErrorCode.KMS_DENIED),
        ("DisabledException", 400, ErrorCode.KMS_DENIED),
        ("IncorrectKeyException", 400, ErrorCode.KMS_DENIED),
        ("NotFoundException", 400, ErrorCode.KMS_NOT_FOUND),
        ("ResourceNotFoundException:http://internal.amazon.com/coral/", 400, ErrorCode.KMS_NOT_FOUND),
        ("ThrottlingException", 400, ErrorCode.KMS_BUSY),
        ("KMSInternalException", 500, ErrorCode.KMS_BUSY),
        ("ValidationException", 400, ErrorCode.KMS_SETTINGS_INVALID),
        ("NeverHeardOfException", 400, ErrorCode.KMS_BAD_RESPONSE),
        ("NeverHeardOfException", 503, ErrorCode.KMS_BUSY),
    ],
)
async def test_error_types(stand: Stand, said: str, status: int, code: ErrorCode) -> None:
    assert isinstance(stand.fake, Saying)
    stand.fake.said, stand.fake.status = said, status
    for asking in (stand.get(), stand.decrypt()):
        assert (await stand.fails(asking)).code is code


@played_by(Saying)
@pytest.mark.parametrize("said", ["InvalidSignatureException", "RequestExpired"])
async def test_a_signature_that_is_refused_points_at_the_clock(stand: Stand, said: str) -> None:
    assert isinstance(stand.fake, Saying)
    stand.fake.said = said
    error = await stand.fails(stand.decrypt())
    assert error.code is ErrorCode.KMS_DENIED
    assert "clock" in error.detail


@played_by(Versions)
async def test_versions_of_a_secret(stand: Stand) -> None:
    assert isinstance(stand.fake, Versions)
    cases: tuple[tuple[dict[str, object], dict[str, str]], ...] = (
        ({}, {}),
        ({"version_id": "", "version_stage": ""}, {}),
        ({"version_id": "7", "more": 1}, {"VersionId": "7"}),
        ({"version_stage": "AWSPREVIOUS"}, {"VersionStage": "AWSPREVIOUS"}),
    )
    for told, asked in cases:
        stand.annotations = told
        assert await stand.get()
        assert stand.fake.asked[-1] == {"SecretId": stand.fake.name, **asked}
    stand.annotations = {"version_id": 7}
    assert (await stand.fails(stand.get())).code is ErrorCode.KMS_SETTINGS_INVALID


@played_by(AwsFake)
@pytest.mark.parametrize(
    "content",
    [
        {},
        {"access_key_id": "AKID"},
        {"access_key_id": "", "secret_access_key": "x"},
        {"access_key_id": "AKID", "secret_access_key": ""},
        {"access_key_id": 7, "secret_access_key": "x"},
        {"access_key_id": "AK\r\nX: y", "secret_access_key": "x"},
        {"access_key_id": "AKID", "secret_access_key": "x", "session_token": "\u00e4"},
        [],
    ],
)
async def test_credentials_that_are_none(stand: Stand, content: Any) -> None:
    stand.give_files({"credential.json": json.dumps(content).encode()})
    assert (await stand.fails(stand.use())).code is ErrorCode.KMS_CREDENTIALS_INVALID
    assert stand.seen == []
