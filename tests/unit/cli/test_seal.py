"""``coco-agent seal`` without an agent: keys, and secrets that carry or name their plaintext."""

from __future__ import annotations

import base64
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from agent.cli.main import main
from agent.hub.kms import registry
from tests.unit.hub.stub_kms import WORLD
from tests.unit.hub.support import StoredGetter, soon, unsealer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KID = "kbs:///default/signing-key/sealed-secret"


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(registry.BACKENDS, "aws", "tests.unit.hub.stub_kms")
    WORLD.held, WORLD.asked, WORLD.fault, WORLD.given = {}, [], None, []
    yield
    WORLD.fault = None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert main(["seal", "keygen", "--kid", KID, "--name", "k", "--output-dir", str(tmp_path)]) == 0
    return tmp_path


def payload(text: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(text.split(".")[2] + "=="))


@pytest.mark.parametrize(("algorithm", "crv"), [("ES256", "P-256"), ("ES384", "P-384"), ("EdDSA", "Ed25519")])
def test_keys_for_each_algorithm(tmp_path: Path, algorithm: str, crv: str) -> None:
    assert main(["seal", "keygen", "--alg", algorithm, "--output-dir", str(tmp_path)]) == 0
    private, public = tmp_path / "sealed-signing-private.json", tmp_path / "sealed-signing-public.json"
    assert json.loads(public.read_text())["crv"] == crv
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert main(["seal", "keygen", "--alg", algorithm, "--output-dir", str(tmp_path)]) == 1


async def test_an_envelope(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "plain").write_bytes(b"hunter2")
    capsys.readouterr()
    command = ["seal", "envelope", str(folder / "plain"), "--provider", "AWS", "--key-id", "alias/coco"]
    more = [
        "--settings",
        '{"region":"eu"}',
        "--credentials",
        str(folder),
        "--key",
        str(folder / "k-private.json"),
    ]
    import asyncio  # noqa: PLC0415

    assert await asyncio.to_thread(main, command + more) == 0
    text = capsys.readouterr().out.strip()
    assert payload(text)["provider"] == "aws"
    getter = StoredGetter({KID: (folder / "k-public.json").read_bytes()})
    assert (await unsealer(getter).unseal(text.encode(), soon())).reveal() == b"hunter2"
    assert [asked[0] for asked in WORLD.asked] == ["encrypt eu", "decrypt eu"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("--provider", "kbs"), "INVALID_REQUEST"),
        (("--provider", "KBS"), "INVALID_REQUEST"),
        (("--provider", "nobody"), "KMS_UNKNOWN"),
        (("--settings", "[]"), "INVALID_REQUEST"),
        (("--settings", '{"endpoint":"x"}'), "KMS_SETTINGS_INVALID"),
        (("--endpoint", "http://elsewhere.example"), "INVALID_REQUEST"),
        (("--kid", "../x"), "SEALED_KEY_INVALID"),
        (("--key", "/nonexistent"), "INVALID_REQUEST"),
    ],
)
def test_envelopes_that_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], code: str
) -> None:
    (folder / "plain").write_bytes(b"hunter2")
    capsys.readouterr()
    options = {
        "--provider": "aws",
        "--key-id": "k",
        "--credentials": str(folder),
        "--key": str(folder / "k-private.json"),
        change[0]: change[1],
    }
    words = ["seal", "envelope", str(folder / "plain"), *(word for pair in options.items() for word in pair)]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert f"error: {code}" in shown.err
    assert shown.out == ""
    assert WORLD.asked == []


def test_a_plaintext_too_large_for_guests(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "plain").write_bytes(b"x" * 200_000)
    words = ["seal", "envelope", str(folder / "plain"), "--provider", "aws", "--key-id", "k"]
    assert main([*words, "--credentials", str(folder), "--key", str(folder / "k-private.json")]) == 1
    assert "PAYLOAD_TOO_LARGE" in capsys.readouterr().err


def test_a_vault_secret_of_another_provider(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    words = ["seal", "vault", "prod/db", "--provider", "aws", "--settings", '{"region":"eu"}']
    more = ["--annotations", '{"version_id":"7"}', "--key", str(folder / "k-private.json")]
    assert main(words + more) == 0
    shown = capsys.readouterr()
    assert payload(shown.out.strip()) == {
        "version": "0.1.0",
        "type": "vault",
        "name": "prod/db",
        "provider": "aws",
        "provider_settings": {"region": "eu"},
        "annotations": {"version_id": "7"},
    }
    assert "provider separately" in shown.err
