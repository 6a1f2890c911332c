"""Vault and OpenBao without a network: names, refusals, and when somebody logs in."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import Deadline
from agent.config.model import Kms
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.hub.kms.base import Context
from agent.hub.kms.http import KmsAnswer, KmsHttp
from agent.hub.kms.vault import BACKEND
from agent.hub.kms.vault.wire import encode_path, refused
from agent.secret import Secret

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from agent.hub.kms.credentials import Credentials
    from agent.hub.kms.vault.backend import Vault

ADDRESS = "https://vault.example:8200"
CERT = {"auth": {"method": "cert"}}
STORED = {"data": {"password": "swordfish", "n": 7, "list": [1], "none": None, "b": "AAEC"}, "metadata": {}}


@dataclass
class Wire:
    """The network's end: answers by method and path, and what was asked."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    logins: int = 0
    good: str = ""
    lease: dict[str, Any] = field(default_factory=lambda: {"ttl": 0, "expire_time": None})

    def allowed(self, url: str) -> str:
        return KmsHttp(Kms(endpoints=(ADDRESS,))).allowed(url)

    async def trust(self, roots: str = "", identity: Secret | None = None) -> None:
        assert identity is not None

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        deadline: Deadline,
        *,
        trust: ssl.SSLContext | None = None,
    ) -> KmsAnswer:
        await asyncio.sleep(0)
        line = f"{method} {url.removeprefix(f'{ADDRESS}/v1/')}"
        self.asked.append(line)
        self.headers.append(headers)
        self.bodies.append(json.loads(body) if body else None)
        if line == "POST auth/cert/login":
            self.logins += 1
            self.good = f"s.login{self.logins}"
            return good(auth={"client_token": self.good, "lease_duration": 600, "renewable": True})
        if line == "GET auth/token/lookup-self":
            return good(self.lease)
        if line == "POST auth/token/renew-self":
            return good(
                auth={"client_token": "s.given", "lease_duration": self.lease["ttl"], "renewable": True}
            )
        if self.good and headers["X-Vault-Token"] != self.good:
            return bad(403, "permission denied")
        found = self.answers.get(line)
        return found if isinstance(found, KmsAnswer) else good(found) if found is not None else bad(404)


class Files:
    def __init__(self) -> None:
        self.held: dict[str, bytes | ErrorCode] = {"token": b"s.given\n", "client.pem": b"a certificate"}

    async def read(self, provider: str, name: str, deadline: Deadline) -> Secret:
        assert provider == "vault"
        content = self.held[name]
        if isinstance(content, ErrorCode):
            raise AgentError(content, "switched on")
        return Secret(content)


def good(data: Any = None, auth: Any = None) -> KmsAnswer:
    return KmsAnswer(200, json.dumps({"data": data, "auth": auth}).encode())


def bad(status: int, *errors: str) -> KmsAnswer:
    return KmsAnswer(status, json.dumps({"errors": errors}).encode())


class Bench:
    def __init__(self, **more: Any) -> None:
        self.wire = Wire({"GET secret/data/app/db": STORED})
        self.clock = FakeClock()
        self.files = Files()
        context = Context(cast("Credentials", self.files), cast("KmsHttp", self.wire), self.clock)
        shape = msgspec.convert({"address": ADDRESS, **more}, BACKEND.settings)
        self.vault = cast("Vault", BACKEND.open(shape, context))

    def soon(self) -> Deadline:
        return Deadline.after(self.clock, 10)

    async def get(self, name: str, **annotations: object) -> bytes:
        return (await self.vault.get(name, annotations, self.soon())).reveal()

    async def decrypt(self, ciphertext: bytes, **annotations: object) -> bytes:
        return (await self.vault.decrypt(ciphertext, "transit/k", annotations, self.soon())).reveal()


async def code_of(asking: Any) -> ErrorCode:
    with pytest.raises(AgentError) as caught:
        await asking
    return caught.value.code


# --- secrets --------------------------------------------------------------------------------------
async def test_text_as_it_is_and_the_rest_as_json() -> None:
    bench = Bench()
    assert await bench.get("secret/app/db#password") == b"swordfish"
    assert await bench.get("secret/app/db#n") == b"7"
    assert await bench.get("secret/app/db#list") == b"[1]"
    assert await bench.get("secret/app/db#b", encoding="base64") == b"\x00\x01\x02"
    assert json.loads(await bench.get("secret/app/db")) == STORED["data"]
    assert set(bench.wire.asked) == {"GET auth/token/lookup-self", "GET secret/data/app/db"}


async def test_every_request_says_who_and_for_whom() -> None:
    bench = Bench(namespace="team/a")
    await bench.get("secret/app/db#n")
    assert bench.wire.headers[-1] == {
        "X-Vault-Request": "true",
        "X-Vault-Namespace": "team/a",
        "X-Vault-Token": "s.given",
    }


@pytest.mark.parametrize("version", [3, "3"])
async def test_a_version(version: object) -> None:
    bench = Bench()
    bench.wire.answers["GET secret/data/app/db?version=3"] = STORED
    assert await bench.get("secret/app/db#n", version=version) == b"7"


@pytest.mark.parametrize(
    "annotations",
    [
        {"version": 0},
        {"version": -1},
        {"version": "1&list=true"},
        {"version": "³"},
        {"version": True},
        {"version": 1.5},
        {"version": 10**9},
        {"encoding": "hex"},
        {"encoding": 7},
    ],
    ids=str,
)
async def test_annotations_that_say_nothing(annotations: dict[str, object]) -> None:
    bench = Bench()
    assert await code_of(bench.get("secret/app/db#n", **annotations)) is ErrorCode.KMS_SETTINGS_INVALID
    assert bench.wire.asked == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "secret",
        "secret/",
        "/app/db#n",
        "secret//db#n",
        "secret/../sys/raw#n",
        "secret/./db#n",
        "secret/app/#n",
        "secret/a\nb#n",
        "secret/app/db#",
        "#n",
        "sys/internal#n",
        "auth/token#n",
        "identity/entity#n",
        "cubbyhole/mine#n",
        f"secret/{'a' * 600}#n",
        "secret/" + "a/" * 600 + "a",
    ],
)
async def test_names_that_lead_nowhere_good(name: str) -> None:
    bench = Bench()
    assert await code_of(bench.get(name)) is ErrorCode.KMS_SETTINGS_INVALID
    assert bench.wire.asked == []


async def test_a_mount_in_the_settings_says_where_it_ends() -> None:
    bench = Bench(mount="team/kv")
    bench.wire.answers["GET team/kv/data/app"] = STORED
    assert await bench.get("team/kv/app#n") == b"7"
    assert await code_of(bench.get("team/other#n")) is ErrorCode.KMS_SETTINGS_INVALID
    assert await code_of(bench.get("team/kv/../x#n")) is ErrorCode.KMS_SETTINGS_INVALID
    assert await code_of(Bench(mount="auth/token").get("auth/token/x")) is ErrorCode.KMS_SETTINGS_INVALID


@given(st.text(max_size=40))
@settings(max_examples=200)
def test_a_path_stays_below_its_mount(text: str) -> None:
    try:
        encoded = encode_path(text, "it")
    except AgentError:
        return
    assert encoded.isascii()
    assert not set(encoded) & set("?#\\ \n")
    assert len(encoded.split("/")) == len(text.split("/"))
    assert not {"", ".", ".."} & set(encoded.split("/"))


# --- settings -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "more",
    [
        {"auth": {"method": "userpass"}},
        {"auth": {"method": "cert", "mount": "../sys"}},
        {"auth": {"method": "cert", "mount": ""}},
        {"namespace": "a b"},
        {"namespace": "a\r\nX-Evil: 1"},
        {"namespace": "/a"},
    ],
    ids=str,
)
def test_settings_that_cannot_be(more: dict[str, Any]) -> None:
    with pytest.raises(AgentError) as caught:
        Bench(**more)
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID


def test_an_address_of_somebody_else() -> None:
    with pytest.raises(AgentError) as caught:
        Bench(address="https://vault.example.attacker:8200")
    assert caught.value.code is ErrorCode.KMS_ENDPOINT_REFUSED


# --- transit --------------------------------------------------------------------------------------
async def test_ciphertext_and_context_reach_the_key() -> None:
    bench = Bench()
    bench.wire.answers["POST transit/decrypt/k"] = {"plaintext": base64.b64encode(b"key").decode()}
    assert await bench.decrypt(b"vault:v12:AAAA\n", context="Y3R4") == b"key"
    assert bench.wire.bodies[-1] == {"ciphertext": "vault:v12:AAAA", "context": "Y3R4"}


@pytest.mark.parametrize(
    ("ciphertext", "annotations"),
    [
        (b"", {}),
        (b"AAAA", {}),
        (b"vault:v0:AAAA", {}),
        (b"vault:v1:", {}),
        (b'vault:v1:AAAA","x":"', {}),
        (b"vault:v1:\xff", {}),
        (b"vault:v1:AAAA", {"context": "not base64"}),
        (b"vault:v1:AAAA", {"context": 7}),
    ],
)
async def test_what_transit_did_not_make(ciphertext: bytes, annotations: dict[str, object]) -> None:
    bench = Bench()
    assert await code_of(bench.decrypt(ciphertext, **annotations)) is ErrorCode.KMS_SETTINGS_INVALID
    assert bench.wire.asked == []


@pytest.mark.parametrize("derived", [False, True])
async def test_a_derived_key_gets_a_context_of_its_own(*, derived: bool) -> None:
    bench = Bench()
    bench.wire.answers["GET transit/keys/k"] = {"derived": derived}
    bench.wire.answers["POST transit/encrypt/k"] = {"ciphertext": "vault:v1:AAAA"}
    made, annotations = await bench.vault.encrypt(Secret(b"data key"), "transit/k", bench.soon())
    sent = bench.wire.bodies[-1]
    assert made == b"vault:v1:AAAA"
    assert base64.b64decode(sent["plaintext"]) == b"data key"
    assert annotations == ({"context": sent["context"]} if derived else {})
    assert not derived or len(base64.b64decode(sent["context"])) == 32


async def test_an_encryption_that_is_none() -> None:
    bench = Bench()
    bench.wire.answers |= {"GET transit/keys/k": {}, "POST transit/encrypt/k": {"ciphertext": "data key"}}
    asking = bench.vault.encrypt(Secret(b"data key"), "transit/k", bench.soon())
    assert await code_of(asking) is ErrorCode.KMS_BAD_RESPONSE


# --- logging in -----------------------------------------------------------------------------------
async def test_a_login_serves_until_shortly_before_its_end() -> None:
    bench = Bench(**CERT)
    for _ in range(3):
        await bench.get("secret/app/db#n")
        bench.clock.advance(200)
    assert bench.wire.logins == 1
    await bench.get("secret/app/db#n")
    assert bench.wire.logins == 2


async def test_a_login_that_the_service_forgot_is_made_again_once() -> None:
    bench = Bench(**CERT)
    await bench.get("secret/app/db#n")
    bench.clock.advance(60)
    bench.wire.good = "s.of a restarted server"
    assert await bench.get("secret/app/db#n") == b"7"
    assert bench.wire.logins == 2


async def test_a_login_is_for_one_certificate() -> None:
    bench = Bench(**CERT)
    await bench.get("secret/app/db#n")
    bench.files.held["client.pem"] = b"another certificate"
    assert set(await asyncio.gather(*(bench.get("secret/app/db#n") for _ in range(5)))) == {b"7"}
    assert bench.wire.logins == 2
    bench.files.held["client.pem"] = ErrorCode.KMS_CREDENTIALS_MISSING
    assert await code_of(bench.get("secret/app/db#n")) is ErrorCode.KMS_CREDENTIALS_MISSING
    assert bench.wire.logins == 2


async def renewals(bench: Bench, asked: int) -> int:
    """Renewals of a lease, after so many requests for the secret and some time for the renewal."""
    for _ in range(asked):
        await bench.get("secret/app/db#n")
    for _ in range(20):
        bench.clock.advance(1)
        await asyncio.sleep(0.001)
    return bench.wire.asked.count("POST auth/token/renew-self")


LEASE = {"ttl": 0.002, "expire_time": "2026-09-21T14:00:00Z", "renewable": True}


@pytest.mark.parametrize(
    "held", [b"s.other", b"no token at all", ErrorCode.KMS_CREDENTIALS_MISSING, ErrorCode.RESOURCE_DENIED]
)
async def test_a_token_that_is_no_longer_the_credentials_is_not_renewed(held: bytes | ErrorCode) -> None:
    bench = Bench()
    bench.wire.lease = LEASE
    assert await renewals(bench, asked=1) > 1
    bench.files.held["token"] = held
    await renewals(bench, asked=0)
    before = await renewals(bench, asked=0)
    assert await renewals(bench, asked=0) == before
    bench.files.held["token"] = b"s.given"
    assert await renewals(bench, asked=1) > before  # put back, it is looked after again
    bench.vault.close()


async def test_a_token_is_renewed_while_the_broker_is_away() -> None:
    bench = Bench()
    bench.wire.lease = LEASE
    await bench.get("secret/app/db#n")
    bench.files.held["token"] = ErrorCode.KBS_UNREACHABLE
    before = await renewals(bench, asked=0)
    assert await renewals(bench, asked=0) > before
    bench.vault.close()


async def test_a_token_that_cannot_be_used_any_more_is_forgotten() -> None:
    bench = Bench()
    await renewals(bench, asked=1)
    bench.files.held["token"] = b"\x00 is no token"
    assert await code_of(bench.get("secret/app/db#n")) is ErrorCode.KMS_CREDENTIALS_INVALID
    bench.files.held["token"] = b"s.given"
    await renewals(bench, asked=1)
    assert bench.wire.asked.count("GET auth/token/lookup-self") == 2
    bench.vault.close()


async def test_all_who_meet_a_forgotten_login_get_the_new_one() -> None:
    bench = Bench(**CERT)
    await bench.get("secret/app/db#n")
    bench.clock.advance(60)
    bench.wire.good = "s.of a restarted server"
    assert set(await asyncio.gather(*(bench.get("secret/app/db#n") for _ in range(5)))) == {b"7"}
    assert bench.wire.logins == 2


async def test_what_the_policy_refuses_makes_no_storm_of_logins() -> None:
    bench = Bench(**CERT)
    bench.wire.answers["GET secret/data/other"] = bad(403, "1 error occurred:\n\t* permission denied\n\n")
    for _ in range(5):
        assert await code_of(bench.get("secret/other#n")) is ErrorCode.KMS_DENIED
    assert bench.wire.logins == 1


async def test_a_token_in_use_is_looked_at_once() -> None:
    bench = Bench()
    for _ in range(3):
        await bench.get("secret/app/db#n")
    assert bench.wire.asked.count("GET auth/token/lookup-self") == 1
    bench.vault.close()


async def test_a_closed_backend_holds_no_token() -> None:
    bench = Bench(**CERT)
    await bench.get("secret/app/db#n")
    bench.vault.close()
    await bench.get("secret/app/db#n")
    assert bench.wire.logins == 2


# --- refusals -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (bad(403, "permission denied"), ErrorCode.KMS_DENIED, "policy"),
        (
            bad(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"),
            ErrorCode.KMS_DENIED,
            "token",
        ),
        (bad(404), ErrorCode.KMS_NOT_FOUND, "404"),
        (
            bad(404, 'no handler for route "x/data/y".'),
            ErrorCode.KMS_NOT_FOUND,
            "mounted",
        ),
        (bad(400, "encryption key not found"), ErrorCode.KMS_NOT_FOUND, "key"),
        (bad(400, "something else"), ErrorCode.KMS_SETTINGS_INVALID, "400"),
        (KmsAnswer(400, b"<html>a proxy"), ErrorCode.KMS_BAD_RESPONSE, "400"),
        (bad(412, "required index state not present"), ErrorCode.KMS_BUSY, "standby"),
        (bad(429, "request path quota exceeded"), ErrorCode.KMS_BUSY, "429"),
        (bad(473), ErrorCode.KMS_BUSY, "standby"),
        (bad(500, "local node not active but active cluster node not found"), ErrorCode.KMS_BUSY, "standby"),
        (bad(500, "internal error"), ErrorCode.KMS_BUSY, "500"),
        (bad(503, "Vault is sealed"), ErrorCode.KMS_BUSY, "sealed"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, KmsAnswer) else "",
)
def test_what_a_refusal_means(answer: KmsAnswer, code: ErrorCode, words: str) -> None:
    error = refused(answer)
    assert error.code is code
    assert words in error.detail


@given(st.integers(100, 599).filter(lambda status: status != 200), st.binary(max_size=80))
@settings(max_examples=200)
def test_a_refusal_is_always_one_and_quotes_nothing(status: int, body: bytes) -> None:
    error = refused(KmsAnswer(status, body))
    assert error.code.name.startswith("KMS_")
    if len(body) > 8:
        assert body.decode("utf-8", "replace") not in error.detail
