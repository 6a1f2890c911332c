"""Several sealed secrets at once, over REST and from the command line, against a running agent."""

from __future__ import annotations

import base64
import json
import stat
from typing import TYPE_CHECKING

import pytest

from agent.config.model import SealedSecrets
from agent.devkit.playground import playground
from agent.errors import ErrorCode
from agent.hub import jwk, jws
from agent.hub.kms import registry
from agent.hub.sealing import Provider, keygen, seal_envelope, seal_vault
from agent.secret import Secret
from tests.integration.support import http, run, soon
from tests.unit.hub.stub_kms import WORLD, Settings, StubKms

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.devkit.playground import Playground

pytestmark = pytest.mark.integration

KID = "kbs:///default/signing-key/sealed-secret"
COUNT = 40


@pytest.fixture(params=["ES256", "ES384", "EdDSA"])
def sealed(request: pytest.FixtureRequest, place: Playground) -> list[str]:
    private, public = keygen(KID, request.param)
    place.kbs.put("default/signing-key/sealed-secret", public)
    for number in range(COUNT):
        place.kbs.put(f"default/secret/{number}", f"plain {number}".encode())
    return [seal_vault(f"kbs:///default/secret/{n}", KID, private.reveal()) for n in range(COUNT)]


async def test_a_batch_shares_the_attestation_and_the_signing_key(
    place: Playground, sealed: list[str]
) -> None:
    answer = await http(f"{place.rest}/cdh/unseal", "POST", json.dumps(sealed).encode())
    assert answer.status == 200
    opened = [base64.b64decode(item["value"]) for item in answer.json()]
    assert opened == [f"plain {number}".encode() for number in range(COUNT)]
    assert place.kbs.counters["attest"] == 1
    assert place.kbs.counters["resource"] == COUNT + 1  # the signing key once


async def test_one_bad_item_does_not_spoil_the_others(place: Playground, sealed: list[str]) -> None:
    head, _, signature = sealed[1].rpartition(".")
    forged = f"{head}.{signature[::-1]}"
    place.kbs.put("default/secret/0", b"")
    gone = sealed[0].replace("sealed.", "sealed.sealed.", 1)
    answer = await http(
        f"{place.rest}/cdh/unseal", "POST", json.dumps([sealed[2], forged, gone, sealed[3]]).encode()
    )
    assert [item.get("code") for item in answer.json()] == [
        None,
        answer.json()[1]["code"],
        "SEALED_MALFORMED",
        None,
    ]
    assert answer.json()[1]["code"] in {"SEALED_SIGNATURE_INVALID", "SEALED_MALFORMED"}
    assert forged.encode() not in answer.body


async def test_a_denied_plaintext_is_one_bad_item(place: Playground, sealed: list[str]) -> None:
    place.kbs.deny("default/secret/1")
    answer = await http(f"{place.rest}/cdh/unseal", "POST", json.dumps(sealed[:3]).encode())
    assert [item.get("code") for item in answer.json()] == [None, "RESOURCE_DENIED", None]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(registry.BACKENDS, "aws", "tests.unit.hub.stub_kms")
    WORLD.held, WORLD.asked, WORLD.fault, WORLD.given = {}, [], None, []
    yield
    WORLD.fault = None


async def envelope(private: bytes, plaintext: bytes, key_id: str = "key-1") -> str:
    stub = StubKms(Settings())
    provider = Provider("aws")
    return await seal_envelope(
        Secret(plaintext), (key_id, stub), KID, private, provider=provider, deadline=soon()
    )


@pytest.mark.usefixtures("service")
async def test_every_failure_has_a_code_of_its_own() -> None:
    async with playground(
        sealed=SealedSecrets(trusted_kids=(KID, "kbs:///default/signing-key/gone"))
    ) as place:
        private, public = keygen(KID)
        foreign, _ = keygen(KID)
        place.kbs.put("default/signing-key/sealed-secret", public)
        place.kbs.put("default/secret/1", b"plain")
        place.kbs.put("denied/secret/1", b"plain")
        place.kbs.deny("denied/secret/1")
        key, uri = private.reveal(), "kbs:///default/secret/1"
        good = await envelope(key, b"in an envelope")
        wrong_key = jws.sign_compact(
            KID, _with(good, encrypted_key="U1RVQi1LTVMtQkxPQjo="), jwk.signing_key(jwk.read(key))
        )
        items = {
            seal_vault(uri, KID, key): "",
            good: "",
            seal_vault(uri, KID, foreign.reveal()): "SEALED_SIGNATURE_INVALID",
            seal_vault(uri, "kbs:///default/signing-key/other", key): "SEALED_KEY_UNTRUSTED",
            seal_vault(uri, "kbs:///default/signing-key/gone", key): "SEALED_KEY_UNKNOWN",
            seal_vault("kbs:///denied/secret/1", KID, key): "RESOURCE_DENIED",
            seal_vault("kbs:///default/secret/none", KID, key): "RESOURCE_NOT_FOUND",
            seal_vault("prod/none", KID, key, Provider("aws")): "KMS_NOT_FOUND",
            seal_vault("prod/db", KID, key, Provider("nobody")): "KMS_UNKNOWN",
            f"sealed.{wrong_key}": "SEALED_DECRYPT_FAILED",
            "sealed.fakejwsheader.e30.fakesignature": "SEALED_MALFORMED",
        }
        answer = await http(f"{place.rest}/cdh/unseal", "POST", json.dumps(list(items)).encode())
        assert [item.get("code", "") for item in answer.json()] == list(items.values())
        assert base64.b64decode(answer.json()[1]["value"]) == b"in an envelope"
        WORLD.fault = ErrorCode.KMS_UNREACHABLE
        answer = await http(f"{place.rest}/cdh/unseal", "POST", json.dumps([good]).encode())
        assert answer.json()[0]["code"] == "KMS_UNREACHABLE"
        # The same codes over ttrpc.
        for text, code in items.items():
            status, output, errors = await run(
                "coco-agent", "unseal", "-", "-s", place.hub_socket, stdin=text.encode()
            )
            if code in {"", "KMS_NOT_FOUND", "SEALED_DECRYPT_FAILED"}:
                continue  # the service is switched off
            assert (status, output) == (1, b"")
            assert f"error: {code}:" in errors


def _with(text: str, **changes: str) -> bytes:
    payload = json.loads(base64.urlsafe_b64decode(text.split(".")[2] + "=="))
    return json.dumps({**payload, **changes}).encode()


async def test_a_body_of_a_megabyte_and_not_more(place: Playground) -> None:
    for size, status in ((2**20, 200), (2**20 + 1, 413)):
        body = b'["' + b"x" * (size - 4) + b'"]'
        assert (await http(f"{place.rest}/cdh/unseal", "POST", body)).status == status


async def test_files_into_a_folder(place: Playground, sealed: list[str], tmp_path: Path) -> None:
    for number, name in enumerate(("a.sealed", "b", "c.sealed")):
        (tmp_path / name).write_text(sealed[number] + "\n")
    (tmp_path / "b").write_text("sealed.x.y.z")
    out = tmp_path / "out"
    out.mkdir()
    files = [str(tmp_path / name) for name in ("a.sealed", "b", "missing", "c.sealed")]
    status, output, _ = await run(
        "coco-agent", "unseal", *files, "--output-dir", str(out), "-s", place.hub_socket
    )
    assert status == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {"a": b"plain 0", "c": b"plain 2"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in out.iterdir())
    lines = [line.split()[1] for line in output.decode().splitlines()[1:]]
    assert lines == ["ok", "SEALED_MALFORMED", "INVALID_REQUEST", "ok"]
    assert f"{tmp_path / 'missing'}: No such file or directory" in output.decode()
    assert b"plain" not in output


async def test_lines_of_standard_input_as_json(place: Playground, sealed: list[str]) -> None:
    lines = "\n".join([sealed[0], "", "sealed.bad", sealed[1]]).encode()
    command = ("coco-agent", "unseal", "-", "--json", "-s", place.hub_socket)
    status, output, errors = await run(*command, stdin=lines)
    assert (status, errors) == (1, "")
    first, bad, last = json.loads(output)
    assert [item["name"] for item in (first, bad, last)] == ["-:1", "-:2", "-:3"]
    assert base64.b64decode(first["value"]) == b"plain 0"
    assert base64.b64decode(last["value"]) == b"plain 1"
    assert bad["code"] == "SEALED_MALFORMED"
    assert place.kbs.counters["attest"] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("a", "b"), "--output-dir or --json"),
        (("a", "--json", "-o", "x"), "exclude each other"),
        (("-", "-", "--json"), "once"),
        (("x/a", "y/a", "-d", "out"), "one file"),
    ],
)
async def test_usage_that_cannot_be_meant(options: tuple[str, ...], says: str, tmp_path: Path) -> None:
    status, output, errors = await run("coco-agent", "unseal", *options, "-s", f"unix://{tmp_path}/none.sock")
    assert (status, output) == (1, b"")
    assert says in errors
