"""A real OpenBao server: what the fake was recorded from, and the chain from attestation to plaintext."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from agent.clock import SystemClock
from agent.config.model import Kms
from agent.devkit.playground import playground
from agent.errors import AgentError, ErrorCode
from agent.hub import sealing
from agent.hub.kms.registry import Backends
from agent.hub.resources import Resources
from agent.observe.metrics import Metrics
from agent.secret import Secret
from agent.serve.ttrpc.remote import RemoteHub
from tests.integration.kms.backends.vault import VaultToken
from tests.integration.kms.openbao import Bao, ask, client_pem, running
from tests.integration.kms.stand import PLAINTEXT, TEXT, Broker, Stand, raw, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    import msgspec

    from agent.devkit.playground import Playground
    from agent.hub.kms.base import Getter

pytestmark = pytest.mark.integration

POLICY = """
path "secret/data/app/*" { capabilities = ["read"] }
path "team/kv/data/app/*" { capabilities = ["read"] }
path "transit/decrypt/*" { capabilities = ["update"] }
"""
OWNER = """
path "transit/keys/*" { capabilities = ["read"] }
path "transit/encrypt/*" { capabilities = ["update"] }
path "transit/decrypt/*" { capabilities = ["update"] }
"""
TOKEN_URI, CERT_URI = "kbs:///default/vault/token", "kbs:///default/vault/client"
CERT = {"auth": {"method": "cert", "role": "guest"}}
STORED = {"password": TEXT, "port": 5432, "binary": base64.b64encode(PLAINTEXT).decode()}


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with running(tmp_path_factory.mktemp("openbao")) as server:
        server.does("PUT", "sys/policies/acl/guest", {"policy": POLICY})
        server.does("PUT", "sys/policies/acl/owner", {"policy": OWNER})
        for mount in ("secret", "team/kv"):
            server.does("POST", f"{mount}/data/app/db", {"data": {"password": "an older one"}})
            server.does("POST", f"{mount}/data/app/db", {"data": STORED})
        server.does("POST", "secret/delete/app/db", {"versions": [1]})
        server.does("POST", "secret/data/other", {"data": {"password": "of somebody else"}})
        server.does("POST", "transit/keys/plain")
        server.does("POST", "transit/keys/derived", {"derived": True})
        role = {"certificate": server.clients.pem, "token_policies": ["guest"], "token_ttl": "10m"}
        server.does("POST", "auth/cert/certs/guest", role)
        yield server


class Guest:
    """The hub's backends, with a broker that hands out credentials."""

    def __init__(self, bao: Bao, token: str) -> None:
        self.bao = bao
        self.broker = Broker({TOKEN_URI: token.encode(), CERT_URI: client_pem(bao.clients)})
        resources = Resources(lambda: self.broker, Metrics())
        self.backends = Backends(kms(bao), resources, SystemClock())

    def settings(self, **more: Any) -> dict[str, msgspec.Raw]:
        return raw({"address": self.bao.url, **more})

    async def get(self, name: str, annotations: Mapping[str, object] | None = None, **more: Any) -> bytes:
        getter: Getter = self.backends.getter("vault", self.settings(**more))
        return (await getter.get(name, annotations or {}, soon())).reveal()

    async def encrypt(self, plaintext: bytes, key: str) -> tuple[bytes, dict[str, object]]:
        encrypter = self.backends.encrypter("vault", self.settings())
        return await encrypter.encrypt(Secret(plaintext), key, soon())

    async def decrypt(self, data: bytes, key: str, annotations: Mapping[str, object], **more: Any) -> bytes:
        decrypter = self.backends.decrypter("vault", self.settings(**more))
        return (await decrypter.decrypt(data, key, annotations, soon())).reveal()


def kms(bao: Bao) -> Kms:
    return Kms(
        credentials=(("vault/token", TOKEN_URI), ("vault/client.pem", CERT_URI)),
        endpoints=(bao.url,),
        extra_roots=bao.authority.pem,
    )


@asynccontextmanager
async def guest_with(bao: Bao, token: str) -> AsyncIterator[Guest]:
    made = Guest(bao, token)
    try:
        yield made
    finally:
        await made.backends.close()


@pytest.fixture
async def guest(bao: Bao) -> AsyncIterator[Guest]:
    async with guest_with(bao, bao.token("guest")) as made:
        yield made


@pytest.fixture
async def owner(bao: Bao) -> AsyncIterator[Guest]:
    async with guest_with(bao, bao.token("owner")) as made:
        yield made


async def refused(asking: Any) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await asking
    return caught.value


# --- KV version 2 ---------------------------------------------------------------------------------
@pytest.mark.parametrize("login", [{}, CERT], ids=["token", "cert"])
async def test_fields_of_a_secret(guest: Guest, login: dict[str, Any]) -> None:
    assert await guest.get("secret/app/db#password", **login) == TEXT.encode()
    assert await guest.get("secret/app/db#port", **login) == b"5432"
    assert await guest.get("secret/app/db#binary", {"encoding": "base64"}, **login) == PLAINTEXT
    assert json.loads(await guest.get("secret/app/db", **login)) == STORED


async def test_an_older_version(guest: Guest) -> None:
    for version, value in ((1, b"an older one"), ("2", TEXT.encode())):
        told = {"version": version}
        assert await guest.get("team/kv/app/db#password", told, mount="team/kv") == value


async def test_a_mount_with_a_slash_in_it(guest: Guest) -> None:
    assert await guest.get("team/kv/app/db#password", mount="team/kv") == TEXT.encode()


async def test_a_path_with_characters_that_urls_give_a_meaning(bao: Bao, guest: Guest) -> None:
    bao.does("POST", "secret/data/app/a%20b%3Fc%25d%C3%BC", {"data": {"x": "found"}})
    assert await guest.get("secret/app/a b?c%dü#x") == b"found"


@pytest.mark.parametrize(
    ("name", "annotations", "code"),
    [
        ("secret/app/nothing#password", {}, ErrorCode.KMS_NOT_FOUND),
        ("secret/app/db#nothing", {}, ErrorCode.KMS_NOT_FOUND),
        ("secret/app/db#password", {"version": 99}, ErrorCode.KMS_NOT_FOUND),
        ("secret/other#password", {}, ErrorCode.KMS_DENIED),
        ("nothing/app/db#password", {}, ErrorCode.KMS_DENIED),
        ("transit/app/db#password", {}, ErrorCode.KMS_DENIED),
    ],
)
async def test_what_is_not_there_or_not_for_us(
    guest: Guest, name: str, annotations: dict[str, object], code: ErrorCode
) -> None:
    assert (await refused(guest.get(name, annotations))).code is code


async def test_a_mount_that_does_not_exist(bao: Bao) -> None:
    async with guest_with(bao, bao.root) as administrator:
        assert (await refused(administrator.get("nothing/x#y"))).code is ErrorCode.KMS_NOT_FOUND


async def test_a_deleted_and_a_destroyed_version(bao: Bao, guest: Guest) -> None:
    for _ in range(3):
        bao.does("POST", "secret/data/app/gone", {"data": {"x": "y"}})
    bao.does("POST", "secret/delete/app/gone", {"versions": [1]})
    bao.does("PUT", "secret/destroy/app/gone", {"versions": [2]})
    for version, word in ((1, "deleted"), (2, "destroyed")):
        error = await refused(guest.get("secret/app/gone#x", {"version": version}))
        assert error.code is ErrorCode.KMS_NOT_FOUND
        assert word in error.detail
    assert await guest.get("secret/app/gone#x", {"version": 3}) == b"y"


async def test_a_namespace_that_does_not_exist(guest: Guest) -> None:
    error = await refused(guest.get("secret/app/db#password", namespace="nowhere"))
    assert error.code is ErrorCode.KMS_NOT_FOUND
    assert "namespace" in error.detail


async def test_a_secret_of_a_namespace(bao: Bao) -> None:
    bao.does("POST", "sys/namespaces/tenant")
    try:
        bao.does("POST", "tenant/sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        bao.when_ready("tenant/kv")
        bao.does("POST", "tenant/kv/data/app", {"data": {"x": "of the tenant"}})
        async with guest_with(bao, bao.root) as administrator:
            assert await administrator.get("kv/app#x", namespace="tenant") == b"of the tenant"
    finally:
        bao.does("DELETE", "sys/namespaces/tenant")


# --- transit --------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["transit/plain", "transit/derived"])
@pytest.mark.parametrize("login", [{}, CERT], ids=["token", "cert"])
async def test_what_the_owner_encrypts_the_guest_decrypts(
    guest: Guest, owner: Guest, key: str, login: dict[str, Any]
) -> None:
    ciphertext, annotations = await owner.encrypt(PLAINTEXT, key)
    assert ciphertext.startswith(b"vault:v1:")
    assert bool(annotations) == (key == "transit/derived")
    assert await guest.decrypt(ciphertext, key, annotations, **login) == PLAINTEXT


async def test_a_rotated_key_decrypts_until_it_may_not(bao: Bao, guest: Guest, owner: Guest) -> None:
    bao.does("POST", "transit/keys/rotated")
    old, _ = await owner.encrypt(b"x", "transit/rotated")
    bao.does("POST", "transit/keys/rotated/rotate")
    new, _ = await owner.encrypt(b"x", "transit/rotated")
    assert new.startswith(b"vault:v2:")
    assert await guest.decrypt(old, "transit/rotated", {}) == b"x"
    bao.does("POST", "transit/keys/rotated/config", {"min_decryption_version": 2})
    error = await refused(guest.decrypt(old, "transit/rotated", {}))
    assert error.code is ErrorCode.KMS_DENIED
    assert "version" in error.detail


async def test_ciphertexts_that_are_not_ours(guest: Guest, owner: Guest) -> None:
    ciphertext, _ = await owner.encrypt(PLAINTEXT, "transit/plain")
    derived, annotations = await owner.encrypt(PLAINTEXT, "transit/derived")
    other = {"context": base64.b64encode(b"another").decode()}
    changed = ciphertext[:20] + (b"A" if ciphertext[20:21] != b"A" else b"B") + ciphertext[21:]
    for data, key, with_it, code in (
        (changed, "transit/plain", {}, ErrorCode.KMS_DENIED),
        (b"vault:v1:AAAA", "transit/plain", {}, ErrorCode.KMS_DENIED),
        (ciphertext.replace(b":v1:", b":v7:"), "transit/plain", {}, ErrorCode.KMS_DENIED),
        (b"not of transit", "transit/plain", {}, ErrorCode.KMS_SETTINGS_INVALID),
        (derived, "transit/derived", {}, ErrorCode.KMS_SETTINGS_INVALID),
        (derived, "transit/derived", other, ErrorCode.KMS_DENIED),
        (derived, "transit/plain", annotations, ErrorCode.KMS_DENIED),
        (ciphertext, "transit/nothing", {}, ErrorCode.KMS_NOT_FOUND),
    ):
        error = await refused(guest.decrypt(data, key, with_it))
        assert error.code is code, (data, key, error.detail)


async def test_a_mistyped_key_is_not_made(bao: Bao) -> None:
    async with guest_with(bao, bao.root) as administrator:
        error = await refused(administrator.encrypt(b"x", "transit/mistyped"))
    assert error.code is ErrorCode.KMS_NOT_FOUND
    assert bao.ask("GET", "transit/keys/mistyped")[0] == 404


# --- logging in -----------------------------------------------------------------------------------
async def test_a_token_that_is_none(bao: Bao) -> None:
    async with guest_with(bao, "s.nothing") as stranger:
        assert (await refused(stranger.get("secret/app/db#password"))).code is ErrorCode.KMS_DENIED


async def test_a_token_that_was_replaced_at_the_broker_counts_at_once(bao: Bao, guest: Guest) -> None:
    first = guest.broker.held[TOKEN_URI].decode()
    assert await guest.get("secret/app/db#port")
    bao.does("POST", "auth/token/revoke", {"token": first})
    assert (await refused(guest.get("secret/app/db#port"))).code is ErrorCode.KMS_DENIED
    guest.broker.held[TOKEN_URI] = bao.token("guest").encode()
    assert await guest.get("secret/app/db#port") == b"5432"


async def test_a_token_is_renewed_before_it_ends_though_nobody_uses_it(bao: Bao) -> None:
    token = bao.token("guest", period="4s")
    async with guest_with(bao, token) as idle:
        assert await idle.get("secret/app/db#port")
        async with asyncio.timeout(20):
            while "last_renewal" not in await asyncio.to_thread(lease, bao, token):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        assert await idle.get("secret/app/db#port")


def lease(bao: Bao, token: str) -> Any:
    return bao.does("POST", "auth/token/lookup", {"token": token})["data"]


async def test_many_callers_log_in_once(bao: Bao, guest: Guest) -> None:
    before = len(bao.does("LIST", "auth/token/accessors")["data"]["keys"])
    await asyncio.gather(*(guest.get("secret/app/db#port", **CERT) for _ in range(10)))
    assert len(bao.does("LIST", "auth/token/accessors")["data"]["keys"]) == before + 1


async def test_certificates_and_roles_that_do_not_get_in(bao: Bao, guest: Guest) -> None:
    login = {"auth": {"method": "cert", "role": "nothing"}}
    assert (await refused(guest.get("secret/app/db#port", **login))).code is ErrorCode.KMS_DENIED
    server = bao.authority.issue()
    guest.broker.held[CERT_URI] = client_pem(bao.authority)
    assert (await refused(guest.get("secret/app/db#port", **CERT))).code is ErrorCode.KMS_DENIED
    guest.broker.held[CERT_URI] = server.cert_pem.encode()
    error = await refused(guest.get("secret/app/db#port", **CERT))
    assert error.code is ErrorCode.KMS_CREDENTIALS_INVALID


async def test_sealed_and_unsealed_again(bao: Bao, guest: Guest) -> None:
    assert await guest.get("secret/app/db#port")
    bao.does("PUT", "sys/seal")
    try:
        error = await refused(guest.get("secret/app/db#port"))
        assert error.code is ErrorCode.KMS_BUSY
        assert "sealed" in error.detail
    finally:
        bao.unseal()
    assert await guest.get("secret/app/db#port") == b"5432"


# --- the fake is faithful -------------------------------------------------------------------------
async def test_the_fake_answers_as_the_server_does(bao: Bao, tmp_path: Path) -> None:
    bao.does("POST", "transit/keys/app")
    made = bao.does("POST", "transit/encrypt/app", {"plaintext": "AAAA"})["data"]["ciphertext"]
    token = bao.root
    requests: list[tuple[str, str, str, Any]] = [
        (token, "GET", "secret/data/app/db", None),
        (token, "GET", "secret/data/app/db?version=1", None),
        (token, "GET", "secret/data/app/db?version=99", None),
        (token, "GET", "secret/data/app/nothing", None),
        (token, "GET", "auth/token/lookup-self", None),
        (token, "GET", "transit/keys/app", None),
        (token, "POST", "transit/encrypt/app", {"plaintext": "AAAA"}),
        (
            token,
            "POST",
            "transit/decrypt/app",
            {"ciphertext": f"{made[:20]}{'BA'[made[20] == 'B']}{made[21:]}"},
        ),
        ("s.nothing", "GET", "secret/data/app/db", None),
        ("s.nothing", "POST", "auth/token/renew-self", {}),
    ]
    fake = VaultToken()
    fake.token = token
    async with Stand(fake, tmp_path).running() as stand:
        for request in requests:
            status, real = await asyncio.to_thread(ask, bao.url, bao.authority, *request)
            played_status, played = await asyncio.to_thread(ask, fake.url, stand.authority, *request)
            assert played_status == status, request
            assert set(played) == set(real), request
            assert played.get("errors") == real.get("errors"), request
            assert set(played.get("data") or ()) <= set(real.get("data") or ()), request
    assert fake.busy().text == json.dumps({"errors": ["Vault is sealed"]})


# --- the whole chain ------------------------------------------------------------------------------
@pytest.fixture
async def place(bao: Bao) -> AsyncIterator[Playground]:
    async with playground(kms=kms(bao)) as started:
        started.kbs.put("default/vault/token", bao.token("guest").encode())
        started.kbs.put("default/vault/client", client_pem(bao.clients))
        yield started


@pytest.mark.parametrize("login", [{}, CERT], ids=["token", "cert"])
async def test_sealed_secrets_through_a_running_agent(
    bao: Bao, place: Playground, owner: Guest, login: dict[str, Any]
) -> None:
    private, public = sealing.keygen("kbs:///default/signing/key")
    place.kbs.put("default/signing/key", public)
    provider = sealing.Provider("vault", raw({"address": bao.url, **login}))
    sealed = (
        sealing.seal_vault(
            "secret/app/db#password", "kbs:///default/signing/key", private.reveal(), provider
        ),
        await sealing.seal_envelope(
            Secret(PLAINTEXT),
            ("transit/derived", owner.backends.encrypter("vault", owner.settings())),
            "kbs:///default/signing/key",
            private.reveal(),
            provider=provider,
            deadline=soon(),
        ),
    )
    assert place.kbs.counters["attest_ok"] == 0
    hub = RemoteHub(place.hub_socket)
    try:
        plaintexts = [(await hub.unseal(text.encode(), soon())).reveal() for text in sealed]
    finally:
        await hub.close()
    assert plaintexts == [TEXT.encode(), PLAINTEXT]
    assert place.kbs.counters["attest_ok"] == 1


async def test_without_the_brokers_consent_there_is_no_credential(bao: Bao, place: Playground) -> None:
    private, public = sealing.keygen("kbs:///default/signing/key")
    place.kbs.put("default/signing/key", public)
    place.kbs.deny("default/vault/token")
    provider = sealing.Provider("vault", raw({"address": bao.url}))
    sealed = sealing.seal_vault(
        "secret/app/db#port", "kbs:///default/signing/key", private.reveal(), provider
    )
    hub = RemoteHub(place.hub_socket)
    try:
        error = await refused(hub.unseal(sealed.encode(), soon()))
    finally:
        await hub.close()
    assert error.code is ErrorCode.RESOURCE_DENIED
