"""The commands against a running agent."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest

from agent.devkit import demo
from tests.integration.support import run

if TYPE_CHECKING:
    from pathlib import Path

    from agent.devkit.playground import Playground

pytestmark = pytest.mark.integration


async def test_get_writes_the_plaintext_and_nothing_else(place: Playground, tmp_path: Path) -> None:
    place.kbs.put("default/key/1", b"\x00binary\n")
    status, output, errors = await run("coco-agent", "get", "kbs:///default/key/1", "-s", place.hub_socket)
    assert (status, output, errors) == (0, b"\x00binary\n", "")
    target = tmp_path / "key"
    again = ("coco-agent", "get", "kbs:///default/key/1", "-s", place.hub_socket, "-o", str(target))
    assert (await run(*again))[0] == 0
    assert target.read_bytes() == b"\x00binary\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert (await run(*again))[0] == 1  # never over an existing file


async def test_get_of_a_missing_resource_says_code_cause_and_next_step(place: Playground) -> None:
    status, output, errors = await run("coco-agent", "get", "kbs:///no/such/thing", "-s", place.hub_socket)
    assert (status, output) == (1, b"")
    assert errors.startswith("error: RESOURCE_NOT_FOUND: ")
    assert "next:" in errors


async def test_without_an_agent_the_error_says_so(tmp_path: Path) -> None:
    status, _, errors = await run("coco-agent", "get", "kbs:///a/b/c", "-s", f"unix://{tmp_path}/none.sock")
    assert status == 1
    assert "ROLE_UNREACHABLE" in errors


async def test_seal_and_unseal_round_trip(place: Playground, tmp_path: Path) -> None:
    kid = "kbs:///default/signing-key/sealed-secret"
    made = await run("coco-agent", "seal", "keygen", "--kid", kid, "--output-dir", str(tmp_path))
    assert made[0] == 0
    private, public = tmp_path / "sealed-signing-private.json", tmp_path / "sealed-signing-public.json"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert "d" not in json.loads(public.read_text())
    place.kbs.put("default/signing-key/sealed-secret", public.read_bytes())
    place.kbs.put("default/db/password", b"open sesame")
    sealing = ("coco-agent", "seal", "vault", "kbs:///default/db/password", "--key", str(private))
    status, sealed, note = await run(*sealing)
    assert status == 0
    assert sealed.startswith(b"sealed.")
    assert "uploaded" in note
    status, plain, _ = await run("coco-agent", "unseal", "-", "-s", place.hub_socket, stdin=sealed)
    assert (status, plain) == (0, b"open sesame")


async def test_a_failed_unseal_prints_nothing(place: Playground) -> None:
    status, output, errors = await run(
        "coco-agent", "unseal", "-", "-s", place.hub_socket, stdin=b"sealed.x.y.z"
    )
    assert (status, output) == (1, b"")
    assert "SEALED_MALFORMED" in errors


async def test_token_shows_claims_and_never_the_private_key(place: Playground) -> None:
    for option in ((), ("--json",), ("--raw",)):
        status, output, _ = await run("coco-agent", "token", *option, "-s", place.attester_socket)
        assert status == 0
        assert b"PRIVATE KEY" not in output
    assert output.count(b".") == 2
    status, output, _ = await run("coco-agent", "token", "-s", place.attester_socket)
    assert b"cpu0" in output


async def test_evidence_prints_what_the_attester_gave(place: Playground) -> None:
    status, output, _ = await run("coco-agent", "evidence", "--hex", "00ff", "-s", place.attester_socket)
    assert status == 0
    assert json.loads(output) == {"svn": "1", "report_data": "AP8="}
    status, _, errors = await run("coco-agent", "evidence", "--hex", "xyz", "-s", place.attester_socket)
    assert status == 1
    assert "--hex" in errors


async def test_info_prints_every_probe_with_its_reason() -> None:
    status, output, _ = await run("coco-agent", "info", "--json")
    assert status == 0
    trail = json.loads(output)["trail"]
    assert {probe["tee"] for probe in trail} >= {
        "tdx",
        "snp",
        "az-snp-vtpm",
        "cca",
        "se",
        "sgx",
        "csv",
        "tpm",
    }
    assert all(probe["reason"] for probe in trail)


async def test_the_demo_attests_once_and_leaves_nothing() -> None:
    status, output, errors = await run("python", "-m", "agent.devkit.demo")
    assert status == 0, errors
    assert b"auth 1, attest 1" in output
    assert output.count(b"\n[") + output.startswith(b"[") == demo.STEPS
