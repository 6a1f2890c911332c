"""How backends with a login of their own keep what they got: once, renewed, and never beyond a refusal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from agent.devkit.pki import Authority
from agent.errors import ErrorCode
from tests.integration.kms.backends.aliyun import (
    INSTANCE,
    INSTANCE_HOST,
    AliyunClientKeyFake,
    AliyunRoleFake,
)
from tests.integration.kms.backends.azure import AzureFake, AzureIdentityFake
from tests.integration.kms.backends.gcp import GcpFake
from tests.integration.kms.stand import TEXT

if TYPE_CHECKING:
    import ssl

    from tests.integration.kms.stand import Stand

pytestmark = pytest.mark.integration

TOKENS = pytest.mark.parametrize(
    "stand", [GcpFake, AzureFake, AzureIdentityFake], ids=lambda fake: fake.title, indirect=True
)


def tokens(stand: Stand) -> int:
    return cast("GcpFake | AzureFake", stand.fake).tokens


@TOKENS
async def test_one_token_for_many_requests(stand: Stand) -> None:
    await asyncio.gather(*(stand.get() for _ in range(20)))
    await stand.get()
    assert tokens(stand) == 1


@TOKENS
async def test_a_token_is_renewed_before_it_ends(stand: Stand) -> None:
    await stand.get()
    stand.fake.clock.advance(3500)
    await stand.get()
    assert tokens(stand) == 1
    stand.fake.clock.advance(40)
    await stand.get()
    assert tokens(stand) == 2


@TOKENS
async def test_a_token_that_is_refused_is_renewed_once(stand: Stand) -> None:
    await stand.get()
    fake = cast("GcpFake | AzureFake", stand.fake)
    fake.tokens += 1  # the service knows another one now
    assert await stand.get() == fake.value()
    assert fake.tokens == 3


@pytest.mark.parametrize("stand", [GcpFake, AzureFake], ids=lambda fake: fake.title, indirect=True)
async def test_a_token_is_for_one_file_of_credentials(stand: Stand) -> None:
    await stand.get()
    (name, content), *_ = stand.fake.credentials().items()
    stand.give_files({name: content + b"\n"})  # other bytes, whatever they mean
    await asyncio.gather(*(stand.get() for _ in range(5)))
    assert tokens(stand) == 2


@TOKENS
async def test_closing_forgets_the_token(stand: Stand) -> None:
    await stand.get()
    await stand.configure()
    await stand.get()
    assert tokens(stand) == 2


@pytest.mark.parametrize("stand", [AliyunRoleFake], indirect=True)
async def test_a_session_of_the_machine_is_used_for_a_while(stand: Stand) -> None:
    for _ in range(3):
        assert await stand.get() == TEXT.encode()
    assert sum("security-credentials" in line for line in stand.seen) == 1
    stand.fake.clock.advance(900)
    await stand.get()
    assert sum("security-credentials" in line for line in stand.seen) == 2


@pytest.mark.parametrize("stand", [AliyunRoleFake], indirect=True)
async def test_a_machine_without_the_role(stand: Stand) -> None:
    stand.give_files({"ecsRamRole.json": b'{"ecs_ram_role_name":"other","region_id":"cn-hangzhou"}'})
    assert (await stand.fails(stand.get())).code is ErrorCode.KMS_CREDENTIALS_INVALID


class OwnCa(AliyunClientKeyFake):
    """An instance as it is: its certificate is of the CA that comes with the credentials."""

    title = "aliyun-own-ca"

    def __init__(self) -> None:
        super().__init__()
        self.authority = Authority("the instance's own CA")

    def credentials(self) -> dict[str, bytes]:
        return {**super().credentials(), f"PrivateKmsCA_{INSTANCE}.pem": self.authority.pem.encode()}

    def listens(self, context: ssl.SSLContext) -> None:
        own = self.authority.issue(INSTANCE_HOST).context()
        context.sni_callback = lambda connection, name, _: setattr(connection, "context", own)


@pytest.mark.parametrize("stand", [OwnCa], indirect=True)
async def test_the_instances_own_ca_is_enough(stand: Stand) -> None:
    await stand.configure(extra_roots="")
    assert await stand.get() == TEXT.encode()
    files = {**stand.fake.credentials(), f"PrivateKmsCA_{INSTANCE}.pem": Authority().pem.encode()}
    stand.give_files(files)  # a rotated file counts at once
    assert (await stand.fails(stand.get())).code is ErrorCode.KMS_UNREACHABLE
