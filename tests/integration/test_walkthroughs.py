"""What published walk-throughs do with a guest, from outside and with the programs they use.

Layered zero trust (attestation status, sealed x509pop identity), the Kubernetes recipe with an encrypted
model, and NVIDIA's four uses of a key broker.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from agent.devkit.demo import open_layer
from agent.hub.image_keys import wrap
from agent.hub.image_packets import build_protocol_input
from agent.hub.sealing import keygen, seal_vault
from agent.serve.ttrpc.remote import RemoteHub
from tests.integration.support import http, run, soon

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.devkit.playground import Playground

pytestmark = pytest.mark.integration

KID = "kbs:///default/signing-key/sealed-secret"


def needs(program: str) -> str:
    """The program's path; without it the test is skipped, in CI it fails."""
    tools = Path(__file__).resolve().parents[2] / ".tools"  # what scripts/debian-skopeo made
    found = shutil.which(program, path=f"{tools}:{os.environ['PATH']}")
    if found is None:
        assert not os.environ.get("CI"), f"{program} is missing"
        pytest.skip(f"{program} is missing. Run: sudo apt-get install {program}")
    return found


async def tool(*command: str) -> bytes:
    """Run a program of the system to its good end; its standard output."""
    process = await asyncio.create_subprocess_exec(
        needs(command[0]), *command[1:], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return output


def sealed_for(place: Playground, resources: Mapping[str, bytes]) -> dict[str, str]:
    """Upload plaintexts and the signing key; a sealed secret for each."""
    private, public = keygen(KID)
    place.kbs.put(KID.removeprefix("kbs:///"), public)
    for path, content in resources.items():
        place.kbs.put(path, content)
    return {path: seal_vault(f"kbs:///{path}", KID, private.reveal()) for path in resources}


# --- layered zero trust ----------------------------------------------------------------------------
async def test_the_attestation_status_is_there_for_whoever_attests(place: Playground) -> None:
    place.kbs.put("default/attestation-status/status", b"success\n")
    output = await tool("curl", "-sf", f"{place.rest}/cdh/resource/default/attestation-status/status")
    assert output == b"success\n"


async def test_the_attestation_status_is_not_there_for_others(place: Playground) -> None:
    place.kbs.put("default/attestation-status/status", b"success\n")
    place.kbs.deny("default/attestation-status/status")
    status = f"{place.rest}/cdh/resource/default/attestation-status/status"
    answer = await http(status, headers={"Accept": "application/json"})
    assert (answer.status, answer.json()["code"]) == (403, "RESOURCE_DENIED")


def identity(kind: str) -> tuple[bytes, bytes]:
    """A certificate and its private key as PEM, for a node that proves possession of them (x509pop)."""
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    if kind == "rsa":
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "spire-agent")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem), private


async def by_rest(place: Playground, mounted: Path, out: Path) -> None:
    """A sidecar in the pod: it has the mounted secrets and the REST API."""
    files = sorted(mounted.iterdir())
    body = json.dumps([file.read_text() for file in files]).encode()
    answer = await http(f"{place.rest}/cdh/unseal", "POST", body)
    for file, item in zip(files, answer.json(), strict=True):
        (out / file.name).write_bytes(base64.b64decode(item["value"]))


async def by_command(place: Playground, mounted: Path, out: Path) -> None:
    """The same in the guest, with our program."""
    files = [str(file) for file in sorted(mounted.iterdir())]
    options = ("--output-dir", str(out), "-s", place.hub_socket)
    status, _, errors = await run("coco-agent", "unseal", *files, *options)
    assert (status, errors) == (0, "")


@pytest.mark.parametrize("kind", ["rsa", "ec"])
@pytest.mark.parametrize("sidecar", [by_rest, by_command], ids=["rest", "command"])
async def test_a_sealed_x509pop_identity_becomes_files_for_openssl(
    place: Playground, tmp_path: Path, kind: str, sidecar: object
) -> None:
    needs("openssl")
    certificate, key = identity(kind)
    paths = {"default/x509pop/cert": certificate, "default/x509pop/key": key}
    texts = sealed_for(place, paths)
    mounted, out = tmp_path / "mounted", tmp_path / "out"
    mounted.mkdir()
    out.mkdir()
    # A Kubernetes Secret as a volume: the file's content is the sealed secret, here with a last newline.
    (mounted / "tls.crt").write_text(texts["default/x509pop/cert"] + "\n")
    (mounted / "tls.key").write_text(texts["default/x509pop/key"])
    assert callable(sidecar)
    await sidecar(place, mounted, out)
    cert_file, key_file = str(out / "tls.crt"), str(out / "tls.key")
    await tool("openssl", "pkey", "-noout", "-check", "-in", key_file)
    subject = await tool("openssl", "x509", "-noout", "-subject", "-in", cert_file)
    assert b"spire-agent" in subject
    from_certificate = await tool("openssl", "x509", "-noout", "-pubkey", "-in", cert_file)
    assert from_certificate == await tool("openssl", "pkey", "-pubout", "-in", key_file)
    if kind == "rsa":
        modulus = await tool("openssl", "x509", "-noout", "-modulus", "-in", cert_file)
        assert modulus == await tool("openssl", "rsa", "-noout", "-modulus", "-in", key_file)
    assert place.kbs.counters["attest"] == 1


async def test_a_key_that_was_changed_on_the_way_becomes_no_file(place: Playground, tmp_path: Path) -> None:
    certificate, key = identity("ec")
    texts = sealed_for(place, {"default/x509pop/cert": certificate, "default/x509pop/key": key})
    foreign, _ = keygen(KID)
    (tmp_path / "tls.crt").write_text(texts["default/x509pop/cert"])
    (tmp_path / "tls.key").write_text(seal_vault("kbs:///default/x509pop/key", KID, foreign.reveal()))
    out = tmp_path / "out"
    out.mkdir()
    files = (str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))
    status, output, _ = await run(
        "coco-agent", "unseal", *files, "--output-dir", str(out), "-s", place.hub_socket
    )
    assert status == 1
    assert b"SEALED_SIGNATURE_INVALID" in output
    assert [file.name for file in out.iterdir()] == ["tls.crt"]


# --- an encrypted model in Kubernetes --------------------------------------------------------------
async def test_an_encrypted_model_opens_with_the_key_the_broker_releases(
    place: Playground, tmp_path: Path
) -> None:
    needs("openssl")
    model, cipher = tmp_path / "model.bin", ("enc", "-aes-256-cbc", "-pbkdf2", "-pass")
    model.write_bytes(secrets.token_bytes(1_000_003))
    owner_key = tmp_path / "owner.key"
    owner_key.write_text(secrets.token_hex(32))
    encrypted = str(tmp_path / "model.enc")
    await tool("openssl", *cipher, f"file:{owner_key}", "-in", str(model), "-out", encrypted)
    place.kbs.put("models/production/decryption-key", owner_key.read_bytes())

    # The workload has the encrypted model from its image or volume, and the REST API.
    key, opened = tmp_path / "pod.key", tmp_path / "opened.bin"
    url = f"{place.rest}/cdh/resource/models/production/decryption-key"
    await tool("curl", "-sf", "-o", str(key), url)
    await tool("openssl", *cipher, f"file:{key}", "-d", "-in", encrypted, "-out", str(opened))
    assert hashlib.sha256(opened.read_bytes()).digest() == hashlib.sha256(model.read_bytes()).digest()


# --- NVIDIA: four uses -----------------------------------------------------------------------------
async def test_an_encrypted_image_key(place: Playground) -> None:
    kek, symkey, nonce = secrets.token_bytes(32), secrets.token_bytes(32), bytes(16)
    layer = b"model weights\n" * 1000
    options = {
        "symkey": base64.b64encode(symkey).decode(),
        "digest": f"sha256:{hashlib.sha256(layer).hexdigest()}",
        "cipheroptions": {"nonce": base64.b64encode(nonce).decode()},
    }
    packet = wrap(json.dumps(options).encode(), kek, "kbs:///default/image-kek/nim")
    place.kbs.put("default/image-kek/nim", kek)
    hub = RemoteHub(place.hub_socket)
    try:
        answer = await hub.unwrap_key(build_protocol_input(packet), soon())
    finally:
        await hub.close()
    # Counter mode: encrypting twice gives the plaintext again.
    whole = json.dumps({"keyunwrapresults": {"optsdata": list(json.dumps(options).encode())}}).encode()
    assert open_layer(answer.reveal(), open_layer(whole, layer)) == layer


async def test_registry_credentials(place: Playground, tmp_path: Path) -> None:
    needs("skopeo")
    auth = base64.b64encode(b"$oauthtoken:nvapi-key").decode()
    place.kbs.put("default/credentials/nvcr", json.dumps({"auths": {"nvcr.io": {"auth": auth}}}).encode())
    file = tmp_path / "auth.json"
    command = ("coco-agent", "get", "kbs:///default/credentials/nvcr", "-o", str(file))
    assert (await run(*command, "-s", place.hub_socket))[0] == 0
    login = await tool("skopeo", "login", "--get-login", "--authfile", str(file), "nvcr.io")
    assert login == b"$oauthtoken\n"


async def test_a_sealed_secret_in_the_environment(place: Playground) -> None:
    """As kata-agent opens ``NGC_API_KEY`` before the container starts."""
    texts = sealed_for(place, {"default/ngc-api-key/instruct": b"nvapi-instruct"})
    hub = RemoteHub(place.hub_socket)
    try:
        plaintext = await hub.unseal(texts["default/ngc-api-key/instruct"].encode(), soon())
    finally:
        await hub.close()
    assert plaintext.reveal().decode() == "nvapi-instruct"


async def test_a_direct_resource(place: Playground) -> None:
    place.kbs.put("default/nim/license", b"\x00license\n")
    answer = await http(f"{place.rest}/cdh/resource/default/nim/license")
    assert (answer.status, answer.body) == (200, b"\x00license\n")
    assert answer.headers["cache-control"] == "no-store"
